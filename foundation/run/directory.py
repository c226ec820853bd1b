"""The run directory: made when a run is sure to start, written piece by piece, each piece whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foundation.config import dump_yaml, load_yaml, to_dict, validate
from foundation.errors import InputError
from foundation.recipe import Recipe

__all__ = ["RunDirectory", "read_recipe", "recipe_to_dict"]

RECIPE_FILE = "recipe.yaml"
SUMMARY_FILE = "summary.json"
LAST_CHECKPOINT = "checkpoints/last.ckpt"


class RunDirectory:
    """Paths of a run and how they are written.

    Attributes:
        path: The directory; it exists after `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def last_checkpoint(self) -> Path:
        """What a resumed run goes on from."""
        return self.path / LAST_CHECKPOINT

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its summary, which comes last but for the report."""
        return (self.path / SUMMARY_FILE).is_file()

    def check_free(self) -> None:
        """Refuse to write into something that is there.

        Raises:
            InputError: The path exists and is not an empty directory.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"run directory '{self.path}' exists; allowed: --resume to go on, or another --out")

    def check_resumable(self, recipe: Recipe) -> None:
        """Refuse to go on with a run of another recipe. Only how long it trains may change.

        Raises:
            InputError: Each difference between the recipe and that of the run.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        stored = _flat(recipe_to_dict(read_recipe(self.path)))
        asked = _flat(recipe_to_dict(recipe))
        problems = [
            f"--resume: {key}: this run has {stored.get(key)!r}, the recipe says {asked.get(key)!r}; "
            "allowed: the run's own recipe, or another --out"
            for key in sorted(stored.keys() | asked.keys())
            if stored.get(key) != asked.get(key) and not key.startswith(_MAY_CHANGE)
        ]
        if problems:
            raise InputError(problems)

    def create(self, recipe: Recipe) -> None:
        """Make the directory and write the resolved recipe.

        Raises:
            InputError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_text(RECIPE_FILE, dump_yaml(recipe_to_dict(recipe)))
        except OSError as error:
            raise InputError(f"run directory '{self.path}': cannot be written: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a file that is either whole or not there."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write JSON; NaN is not allowed in it."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_predictions(self, split: str, predictions: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Write labels and predictions of every data set of a split.

        Args:
            split: `val` or `test`.
            predictions: Data set -> `{property}__target`, `{property}__prediction` -> values.
        """
        folder = self.path / "predictions"
        folder.mkdir(exist_ok=True)
        for dataset, arrays in predictions.items():
            if arrays:
                temporary = folder / f".{split}__{dataset}.tmp.npz"
                np.savez_compressed(temporary, allow_pickle=False, **arrays)
                os.replace(temporary, folder / f"{split}__{dataset}.npz")

    def remove_if_fresh(self) -> None:
        """Take a directory away again that holds no checkpoint: a run that failed at once leaves nothing."""
        if self.path.is_dir() and not any(self.path.rglob("*.ckpt")):
            shutil.rmtree(self.path)


_MAY_CHANGE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.enable_progress_bar",
    "threads",
    "num_workers",
    "checkpoint_minutes",
    "description",
    "report",
)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Everything that a recipe decides, defaults written out.

    Data sets keep only what was stated: the rest stands on their card, and would hide it if it were repeated here.
    """
    data = to_dict(recipe)
    data["data"] = {
        name: config.model_dump(mode="json", by_alias=True, exclude_unset=True) for name, config in recipe.data.items()
    }
    return data


def read_recipe(run: Path) -> Recipe:
    """Read the resolved recipe of a run.

    Raises:
        InputError: There is none, or this version of the program does not understand it.
    """
    file = run / RECIPE_FILE
    return validate(Recipe, load_yaml(file), where=str(file))


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, Mapping):
        return {k: v for key, value in data.items() for k, v in _flat(value, f"{path}.{key}".lstrip(".")).items()}
    return {path: data}
