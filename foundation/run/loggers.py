"""Where the metrics of a run go."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from foundation.recipe import Recipe
from foundation.run.checkpoint_files import step_of
from foundation.run.csv_log import CsvLog
from foundation.run.directory import RunDirectory
from foundation.run.wandb_log import open_wandb_log

__all__ = ["make_loggers"]


def make_loggers(recipe: Recipe, directory: RunDirectory, log: CsvLog, *, checkpoint: Path | None) -> list[Logger]:
    """`metrics.csv`, TensorBoard and, where the recipe asks for it, Weights & Biases.

    Args:
        recipe: What trains.
        directory: Where it is written.
        log: `metrics.csv`.
        checkpoint: What the run goes on from; TensorBoard forgets what it has of later steps.

    Raises:
        InputError: Weights & Biases refuses.
    """
    purged = None if checkpoint is None else step_of(checkpoint)
    loggers = [log, TensorBoardLogger(directory.path, name="tensorboard", version="", purge_step=purged)]
    remote = open_wandb_log(recipe, directory)
    return loggers if remote is None else [*loggers, remote]
