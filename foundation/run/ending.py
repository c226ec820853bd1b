"""How a run ended: at its planned length, or before; and the last validation, so that the newest weights compete."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

__all__ = ["Ending", "LastValidation", "ending_of", "seconds_of"]


@dataclass(frozen=True)
class Ending:
    """Where training stopped.

    Attributes:
        steps: Optimizer steps done, across resumes.
        planned_steps: Those that the schedule was made for; None if only time bounds the run.
        stopped_by: What cut the run short; None if nothing did.
    """

    steps: int
    planned_steps: int | None
    stopped_by: Literal["max_time", "early_stopping", "another limit"] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `summary.json`."""
        return asdict(self)

    def warning(self, *, is_pretraining: bool) -> str | None:
        """What a person has to know of a run that time cut short; None of others."""
        if self.stopped_by != "max_time":
            return None
        way = "give the recipe under init.from more of it" if is_pretraining else "resume with a larger one"
        return (
            f"warning: {'pretraining was ' if is_pretraining else ''}stopped by max_time after {self.steps} of "
            f"{self.planned_steps} steps; the learning rate was not annealed: {way} (trainer.max_time)"
        )


def ending_of(trainer: Trainer) -> Ending:
    """How a trainer's fit ended."""
    steps, planned = trainer.global_step, trainer.estimated_stepping_batches
    if math.isinf(planned):
        return Ending(steps, None, None)
    stopped_by = None
    if steps < planned:
        callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] (a connector sets it)
        if any(isinstance(one, Timer) and (one.time_remaining() or 0.0) <= 0 for one in callbacks):
            stopped_by = "max_time"
        elif any(isinstance(one, EarlyStopping) and one.stopped_epoch > 0 for one in callbacks):
            stopped_by = "early_stopping"
        else:
            stopped_by = "another limit"
    return Ending(steps, int(planned), stopped_by)


def seconds_of(max_time: str | dict[str, int] | timedelta | None) -> float:
    """Seconds of the argument `max_time`; infinite for None."""
    if max_time is None:
        return math.inf
    if isinstance(max_time, str):
        days, hours, minutes, seconds = (int(part) for part in max_time.split(":"))
        max_time = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return (timedelta(**max_time) if isinstance(max_time, dict) else max_time).total_seconds()


class LastValidation(Callback):
    """Validates after the last step if the rhythm of validations left it out."""

    def __init__(self) -> None:
        self._validated_at = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Remember."""
        if not trainer.sanity_checking:
            self._validated_at = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validate as the training loop does, so that whatever watches the validation loss sees it."""
        if self._validated_at == trainer.global_step or not trainer.enable_validation:
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        epoch_loop.val_loop.restarting = False  # as before a step, where a resumed run has none left
        trainer.validating = True
        epoch_loop._batches_that_stepped -= 1  # the last step's number, as in validations after an epoch
        try:
            epoch_loop.val_loop.run()
        finally:
            epoch_loop._batches_that_stepped += 1
            trainer.training = True

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on knowing."""
        self._validated_at = int(state_dict["validated_at"])
