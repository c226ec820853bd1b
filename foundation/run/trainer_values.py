"""Values of the section `trainer` that Lightning would refuse late, in its own words, or take for something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from foundation.errors import InputError
from foundation.run.ranks import trainer_arguments
from foundation.training.module import PRECISIONS

__all__ = ["check_trainer_values", "refusals_of_lightning"]

_PRECISIONS = (*PRECISIONS, "32", "64", "bf16", 32, 64)
"""As a recipe may write them."""
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1,
    "limit_train_batches": 1e-9,
    "gradient_clip_val": 0,
}
"""Below these Lightning divides by zero, trains on nothing, or leaves the setting out without a word."""


def check_trainer_values(stated: Mapping[str, Any]) -> None:
    """Try the section `trainer` before anything is written.

    A precision is refused by its name: on a CPU Lightning would take bf16 where half precision was asked for.

    Args:
        stated: The recipe's section, its names and types checked.

    Raises:
        InputError: Every value that is out of range, or else what Lightning says of the whole.
    """
    problems = [
        f"trainer.{name}: got {stated[name]!r}; allowed: {'more than 0' if least < 1 and least else f'{least} or more'}"
        for name, least in _LEAST.items()
        if stated.get(name) is not None and stated[name] < least
    ]
    if stated.get("precision") is not None and stated["precision"] not in _PRECISIONS:
        problems.append(f"trainer.precision: got {stated['precision']!r}; allowed: {', '.join(PRECISIONS)}")
    if problems:
        raise InputError(problems)
    try:
        Trainer(**trainer_arguments(stated), logger=False)
    except (MisconfigurationException, ImportError, ValueError) as error:
        raise InputError(f"trainer: {_one_line(error)}") from error


@contextmanager
def refusals_of_lightning() -> Iterator[None]:
    """Within this context, settings that Lightning refuses once it knows the data are faults of the input.

    Raises:
        InputError: In place of Lightning's own error.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"trainer: {_one_line(error)}") from error
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise InputError(f"trainer.val_check_interval: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace("`", "").split())
