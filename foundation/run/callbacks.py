"""What watches a run while it trains, in the order in which it acts."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from foundation.run.csv_log import CsvLog, RewindLog
from foundation.run.directory import RunDirectory
from foundation.run.ending import LastValidation
from foundation.run.environment import SharedDirectory
from foundation.run.interruption import Interruption
from foundation.run.moved import MovedRun
from foundation.run.plan import Plan
from foundation.run.saving import RankSums, Saving
from foundation.run.timing import Timing
from foundation.run.watch import Watch
from foundation.training.progress import TrainingProgress

__all__ = ["Watchers", "make_callbacks"]

MONITORED = "val/loss"


@dataclass(frozen=True)
class Watchers:
    """Callbacks of a run; some are asked for something afterwards.

    Attributes:
        timing: How long training took.
        best: Where the weights of the lowest validation loss are; None without validation.
        log: Writes metrics.csv.
        all: What the trainer gets.
    """

    timing: Timing
    best: ModelCheckpoint | None
    log: CsvLog
    all: list[Callback]


def make_callbacks(plan: Plan, directory: RunDirectory, *, interruption: Interruption) -> Watchers:
    """Everything that a recipe's run is watched by.

    Args:
        plan: What will train.
        directory: Where it writes.
        interruption: Knows of signals.
    """
    recipe = plan.recipe
    log = CsvLog(directory.path / "metrics.csv")
    timing = Timing()
    has_bar = recipe.trainer.get("enable_progress_bar", True)
    watch = Watch(plan.data, directory.path, logs_throughput=not has_bar)
    callbacks: list[Callback] = [SharedDirectory(directory.path), RewindLog(log), timing, RankSums(), watch]
    if has_bar:
        callbacks.append(TrainingProgress())
    best = None
    if plan.validation.counts:
        best = ModelCheckpoint(
            dirpath=directory.checkpoints.path,
            filename="best",
            monitor=MONITORED,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        callbacks += [LastValidation(), best, MovedRun(best)]
        if recipe.early_stopping is not None:
            stopping = recipe.early_stopping
            callbacks.append(EarlyStopping(MONITORED, patience=stopping.patience, min_delta=stopping.min_delta))
    minutes = recipe.checkpoint_minutes
    callbacks.append(Saving(directory.checkpoints, minutes=minutes, interruption=interruption, log=log))
    return Watchers(timing, best, log, callbacks)
