"""The run directory: made when a run is sure to start, written piece by piece, each piece whole."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foundation.config import dump_yaml, load_yaml, to_dict, validate
from foundation.errors import InputError
from foundation.recipe import Recipe
from foundation.run.checkpoint_files import CheckpointFolder, sync_folder
from foundation.run.ending import seconds_of
from foundation.run.lock import LOCK_FILE

__all__ = ["RunDirectory", "read_recipe", "recipe_to_dict"]

RECIPE_FILE = "recipe.yaml"
SUMMARY_FILE = "summary.json"


class RunDirectory:
    """Paths of a run and how they are written.

    Attributes:
        path: The directory; it exists after `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> CheckpointFolder:
        """What a resumed run goes on from."""
        return CheckpointFolder(self.path / "checkpoints")

    def is_empty(self) -> bool:
        """Whether there is no run in it: it is absent, or holds nothing but a lock."""
        return not self.path.exists() or (self.path.is_dir() and all(p.name == LOCK_FILE for p in self.path.iterdir()))

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether there is nothing left to do: the summary is written, and time did not cut the run short.

        A run that `trainer.max_time` cut short goes on when the recipe now gives it more time.

        Args:
            recipe: What is asked for now.
        """
        if not (self.path / SUMMARY_FILE).is_file():
            return False
        summary = json.loads((self.path / SUMMARY_FILE).read_text(encoding="utf-8"))
        if summary.get("training", {}).get("stopped_by") != "max_time":
            return True
        before, now = (one.trainer.get("max_time") for one in (read_recipe(self.path), recipe))
        return seconds_of(now) <= seconds_of(before)

    def check_free(self) -> None:
        """Refuse to write into something that is there.

        Raises:
            InputError: The path exists and is not an empty directory.
        """
        if not self.is_empty():
            raise InputError(f"run directory '{self.path}' exists; allowed: --resume to go on, or another --out")

    def check_resumable(self, recipe: Recipe) -> None:
        """Refuse to go on with a run of another recipe. Only how long it trains may change, and on how many processes.

        Raises:
            InputError: Each difference between the recipe and that of the run.
        """
        if self.is_empty():
            return
        stored = _flat(recipe_to_dict(read_recipe(self.path)))
        asked = _flat(recipe_to_dict(recipe))
        may_change = () if stored.get("batch.global_structures") is None else _RANKS
        problems = [
            f"--resume: {key}: this run has {stored.get(key)!r}, the recipe says {asked.get(key)!r}; "
            "allowed: the run's own recipe, or another --out"
            for key in sorted(stored.keys() | asked.keys())
            if stored.get(key) != asked.get(key) and not key.startswith(_MAY_CHANGE) and key not in may_change
        ]
        if not may_change and any(f"{key}:" in problem for problem in problems for key in _RANKS):
            problems.append(
                "--resume: on other processes every step would hold another number of structures; "
                "allowed: that in runs whose recipe has batch.global_structures"
            )
        if problems:
            raise InputError(problems)

    def make(self) -> None:
        """Make the directory.

        Raises:
            InputError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run directory '{self.path}': cannot be written: {error}") from error

    def begin(self, recipe: Recipe) -> None:
        """Write the resolved recipe; a run that goes on is not finished any more.

        Raises:
            InputError: It cannot be written.
        """
        try:
            (self.path / SUMMARY_FILE).unlink(missing_ok=True)
            self.write_text(RECIPE_FILE, dump_yaml(recipe_to_dict(recipe)))
        except OSError as error:
            raise InputError(f"run directory '{self.path}': cannot be written: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a file that is either whole or not there, and outlasts a power cut."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(self.path)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write JSON; numbers that are not finite become null, with a warning."""
        lost: list[str] = []
        text = json.dumps(_finite(value, "", lost), indent=2, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")
        if lost:
            print(f"warning: {name}: not finite, written as null: {', '.join(lost)}", file=sys.stderr, flush=True)

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
    "activation_checkpointing",
    "threads",
    "num_workers",
    "checkpoint_minutes",
    "description",
    "report",
    "wandb",
)


_RANKS = ("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches")


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


def _finite(value: Any, where: str, lost: list[str]) -> Any:
    """The value with None for numbers that are not finite, whose places are added to `lost`."""
    if isinstance(value, Mapping):
        return {key: _finite(inner, f"{where}.{key}".lstrip("."), lost) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner, f"{where}.{index}", lost) for index, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(where)
        return None
    return value


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, Mapping):
        return {k: v for key, value in data.items() for k, v in _flat(value, f"{path}.{key}".lstrip(".")).items()}
    return {path: data}
