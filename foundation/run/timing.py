"""How long training took and how many structures it went through, across resumes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from foundation.data.graph import AtomGraph

__all__ = ["Timing"]


class Timing(Callback):
    """Counts structures and seconds of training; validation and logging count as training time, start-up does not.

    Attributes:
        structures: Seen by this rank.
        train_s: Seconds, resumed parts included.
    """

    def __init__(self) -> None:
        self.structures = 0
        self._before = 0.0
        self._started: float | None = None

    @property
    def train_s(self) -> float:
        """Seconds until now."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: AtomGraph,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count the batch."""
        self.structures += batch.num_graphs

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop the clock."""
        self._before, self._started = self.train_s, None

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"structures": self.structures, "train_s": self.train_s}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.structures, self._before = int(state_dict["structures"]), float(state_dict["train_s"])
