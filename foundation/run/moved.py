"""A run directory that was moved, or has another name on this machine, keeps what was its lowest validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["MovedRun"]


class MovedRun(Callback):
    """Tells the callback that keeps the best weights where they are now.

    Lightning forgets the lowest loss where the folder's name has changed, so that the next validation, however bad,
    would take the place of the best one.

    Args:
        best: Keeps the weights of the lowest validation loss.
    """

    def __init__(self, best: ModelCheckpoint) -> None:
        self._best = best

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Before the callbacks get their states back."""
        state = checkpoint.get("callbacks", {}).get(self._best.state_key)
        if state is None or state["dirpath"] == self._best.dirpath:
            return
        assert self._best.dirpath is not None
        folder = Path(self._best.dirpath)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if state.get(name):
                state[name] = str(folder / Path(state[name]).name)
        state["best_k_models"] = {
            str(folder / Path(path).name): score for path, score in state.get("best_k_models", {}).items()
        }
        state["dirpath"] = str(folder)
