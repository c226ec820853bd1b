"""Weights & Biases beside CSV and TensorBoard, where a recipe asks for it: the optional package `wandb`."""

from __future__ import annotations

import secrets
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger

from foundation.errors import InputError
from foundation.recipe import Recipe, WandbConfig
from foundation.run.directory import RunDirectory, recipe_to_dict
from foundation.run.ranks import is_first_process

if TYPE_CHECKING:
    import wandb

__all__ = ["ID_FILE", "WandbLog", "check_wandb", "open_wandb_log"]

ID_FILE = "wandb_id"
"""In the run directory: under which id the run is known to Weights & Biases, so that a resumed run goes on with it."""
STEP = "optimizer_step"


def check_wandb(config: WandbConfig | None) -> None:
    """Refuse a recipe that asks for a package that is not there.

    Raises:
        InputError: `wandb` is not installed.
    """
    if config is None:
        return
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"wandb: the package 'wandb' cannot be imported: {error}; allowed: pip install wandb, or wandb=null"
        ) from error


class WandbLog(Logger):
    """Sends every logged metric to a run of Weights & Biases, or writes it to `wandb/` of the run directory.

    The horizontal axis of all metrics is `optimizer_step`.

    Args:
        run: Begun.
        project: Its project.
    """

    def __init__(self, run: wandb.Run, *, project: str) -> None:
        super().__init__()
        self._run = run
        self._project = project
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The id of the run."""
        return self._run.id

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the resolved recipe was given when the run began."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send one row."""
        self._run.log({**metrics, STEP: step} if step is not None else dict(metrics))

    def finalize(self, status: str) -> None:
        """End the run; Lightning says how training ended."""
        self._run.finish(exit_code=0 if status == "success" else 1)


def open_wandb_log(recipe: Recipe, directory: RunDirectory) -> WandbLog | None:
    """Begin a run of Weights & Biases, or go on with the one that the run directory belongs to.

    Returns:
        None where the recipe does not ask for it, and in all processes but the first.

    Raises:
        InputError: Weights & Biases refuses: not logged in, no such project, not reachable.
    """
    config = recipe.wandb
    if config is None or not is_first_process():
        return None
    check_wandb(config)
    import wandb

    try:
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or directory.path.name,
            tags=config.tags,
            mode=config.mode,
            id=_run_id(directory),
            resume="allow" if config.mode == "online" else None,
            dir=directory.path,
            config=recipe_to_dict(recipe),
            allow_val_change=True,  # a resumed run may train longer
            # What a run prints stays on its own machine, and Weights & Biases says nothing of its own but errors.
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise InputError(
            f"wandb: mode '{config.mode}' of project '{config.project}': {error}; "
            "allowed: mode=offline, which needs no network and no login (wandb sync sends it later), or wandb=null"
        ) from error
    return WandbLog(run, project=config.project)


def _run_id(directory: RunDirectory) -> str:
    """The id that the run has had since it began."""
    file = directory.path / ID_FILE
    if not file.is_file():
        directory.write_text(ID_FILE, secrets.token_hex(4) + "\n")
    return file.read_text(encoding="utf-8").strip()
