"""What a person sees while training: loss, error of each task, structures a second, time spent waiting for data."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.training.module import FoundationModule

REFRESH_SECONDS = 0.5
LINE_SECONDS = 30.0
"""Where the output is no terminal, a line is written this often instead."""


@dataclass
class Throughput:
    """Structures and waiting since the last time it was asked, measured on this rank.

    Attributes:
        structures: Seen since then.
        waited: Seconds between the end of a step and the arrival of the next batch.
        started: When counting began.
    """

    structures: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)
    _step_ended: float | None = None

    def batch_arrived(self) -> None:
        """A batch is there."""
        if self._step_ended is not None:
            self.waited += time.monotonic() - self._step_ended

    def step_ended(self, structures: int) -> None:
        """A step is done."""
        self.structures += structures
        self._step_ended = time.monotonic()

    def interrupted(self) -> None:
        """Something else than loading comes next: a validation, a checkpoint."""
        self._step_ended = None

    def rates(self) -> tuple[float, float]:
        """Structures a second and share of time spent waiting; begins anew."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rates = self.structures / elapsed, self.waited / elapsed
        self.structures, self.waited, self.started = 0, 0.0, time.monotonic()
        return rates


def format_error(value: float, unit: str) -> str:
    """A short text: small energies in meV, accuracies in per cent."""
    if unit == "":
        return f"{100 * value:.0f} %"
    if unit.startswith("eV") and value < 1:
        value, unit = 1000 * value, f"m{unit}"
    return f"{value:.3g}" if unit == "1" else f"{value:.3g} {unit}"


class TrainingProgress(ProgressBar):
    """A bar on terminals, lines elsewhere; on the first rank only."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._throughput = Throughput()
        self._logged = Throughput()
        self._rates = (0.0, 0.0)
        self._shown = 0.0
        self._validation_loss: float | None = None

    def disable(self) -> None:
        """Say nothing (ranks other than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Speak again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Open the bar."""
        self._throughput, self._logged = Throughput(), Throughput()
        if not self._enabled or not sys.stderr.isatty():
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        steps = trainer.estimated_stepping_batches
        total = None if math.isinf(steps) else int(steps)
        self._task = self._bar.add_task("training", total=total, completed=trainer.global_step, text="")
        self._bar.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """A batch arrived."""
        for meter in self._meters:
            meter.batch_arrived()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: AtomGraph,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """A step is done: log and show how fast now and then."""
        for meter in self._meters:
            meter.step_ended(batch.num_graphs * trainer.world_size)
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (a connector sets it)
        if trainer.global_step % every == 0:
            structures, waiting = self._logged.rates()
            pl_module.log_dict(
                {"train/structures_per_s": structures, "train/loader_wait_percent": 100 * waiting},
                batch_size=batch.num_graphs,
            )
        pause = REFRESH_SECONDS if self._bar is not None else LINE_SECONDS
        if self._enabled and time.monotonic() - self._shown > pause:
            self._show(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Saving is not waiting for data."""
        for meter in self._meters:
            meter.interrupted()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validating is not waiting for data."""
        for meter in self._meters:
            meter.interrupted()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the validation loss."""
        loss = trainer.callback_metrics.get("val/loss")
        self._validation_loss = None if loss is None else float(loss)
        if self._enabled and not trainer.sanity_checking and trainer.training:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self._enabled:
            self._show(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Close the bar before the error is printed."""
        self._close()

    @property
    def _meters(self) -> tuple[Throughput, Throughput]:
        """What is shown and what is logged count from different moments."""
        return self._throughput, self._logged

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, FoundationModule)
        self._shown = time.monotonic()
        if self._throughput.structures:
            self._rates = self._throughput.rates()
        text = self._text(trainer.callback_metrics.get("train/loss"), pl_module.latest_scores)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, text=text, refresh=True)
            self._bar.update(self._task, description=f"epoch {trainer.current_epoch}")
        else:
            print(f"step {trainer.global_step} epoch {trainer.current_epoch}  {text}", file=sys.stderr, flush=True)  # noqa: T201

    def _text(self, loss: Tensor | None, scores: dict[str, tuple[float, str]]) -> str:
        parts = [] if loss is None else [f"loss {float(loss):.4g}"]
        if self._validation_loss is not None:
            parts.append(f"val {self._validation_loss:.4g}")
        parts += [f"{name} {format_error(value, unit)}" for name, (value, unit) in scores.items()]
        structures, waiting = self._rates
        parts.append(f"{structures:.0f} structures/s, {100 * waiting:.0f} % waiting for data")
        return " · ".join(parts)
