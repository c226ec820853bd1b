"""The clock for programs that train with Lightning: found through Lightning's own entry point for callbacks.

`register` writes the metadata of a distribution that holds nothing but the entry point; with its folder on PYTHONPATH
every `lightning.Trainer` of the process gets the callback, and no program has to be changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.backbones.clock import SETTINGS_VARIABLE, ClockSettings, TrainingClock

_METADATA = "Metadata-Version: 2.1\nName: bakeoff-clock\nVersion: 1.0\n"
_ENTRY_POINTS = "[lightning.pytorch.callbacks_factory]\nbakeoff = benchmarks.backbones.lightning_clock:callbacks\n"


def register(folder: Path) -> None:
    """Make a folder that announces the callback when it is on PYTHONPATH."""
    distribution = folder / "bakeoff_clock-1.0.dist-info"
    distribution.mkdir(parents=True, exist_ok=True)
    (distribution / "METADATA").write_text(_METADATA, encoding="utf-8")
    (distribution / "entry_points.txt").write_text(_ENTRY_POINTS, encoding="utf-8")


def callbacks() -> list[Any]:
    """The callbacks of this process; none outside of the harness."""
    if SETTINGS_VARIABLE not in os.environ:
        return []
    from lightning.pytorch import Callback, LightningModule, Trainer

    class ClockCallback(Callback):
        """Keeps weights when they are due, stops at the budget, lives in the checkpoint.

        Acts at the start of a batch: then averages, schedules and checkpoints of the step before are done.
        """

        def __init__(self) -> None:
            self.clock = TrainingClock(ClockSettings.from_environment())

        def _keep(self, trainer: Trainer, *, last: bool = False) -> None:
            self.clock.steps = trainer.global_step
            self.clock.keep_if_due(lambda path: trainer.save_checkpoint(path), suffix=".ckpt", last=last)

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
            self.clock.steps = trainer.global_step
            self.clock.start()

        def on_train_batch_start(
            self,
            trainer: Trainer,
            pl_module: LightningModule,  # noqa: ARG002
            batch: Any,  # noqa: ARG002
            batch_idx: int,  # noqa: ARG002
        ) -> None:
            self._keep(trainer)

        def on_train_batch_end(
            self,
            trainer: Trainer,
            pl_module: LightningModule,  # noqa: ARG002
            outputs: Any,  # noqa: ARG002
            batch: Any,  # noqa: ARG002
            batch_idx: int,  # noqa: ARG002
        ) -> None:
            self.clock.steps = trainer.global_step
            if self.clock.finished:
                trainer.should_stop = True

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
            self._keep(trainer, last=True)
            self.clock.stop()

        def state_dict(self) -> dict[str, Any]:
            return dict(self.clock.state())

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.clock.restore(state_dict)

    return [ClockCallback()]
