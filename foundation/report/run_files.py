"""What a run directory holds, read without trusting that it is finished or whole."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foundation.errors import InputError
from foundation.report.history import History, read_history

_DESCRIBED = ("recipe.yaml", "metrics.csv", "summary.json", "evaluation.json", "predictions")
_WITHOUT = {
    "recipe.yaml": "the recipe is not shown",
    "metrics.csv": "there are no learning curves yet",
    "summary.json": "data, model, reference energies and environment are not shown yet",
    "evaluation.json": "there are no final errors yet",
    "predictions": "there are no parity plots yet",
}


@dataclass(frozen=True)
class PredictionSet:
    """Labels and predictions of one data set's split, as stored: internal units, labelled entries only.

    Attributes:
        split: ``test``, ``val`` or ``train``.
        dataset: The data set's name in the recipe.
        arrays: ``{property}__target`` and ``{property}__prediction`` by name.
    """

    split: str
    dataset: str
    arrays: dict[str, np.ndarray]

    @property
    def properties(self) -> tuple[str, ...]:
        """Names that have both a target and a prediction of one shape."""
        names = [key.removesuffix("__target") for key in self.arrays if key.endswith("__target")]
        return tuple(name for name in names if f"{name}__prediction" in self.arrays)


@dataclass(frozen=True)
class RunFiles:
    """One run directory in memory.

    Attributes:
        path: The directory.
        recipe_text: ``recipe.yaml`` as written; None where absent.
        recipe: The same, parsed; empty where absent or broken.
        history: Every logged series of ``metrics.csv``.
        evaluation: ``{split: {dataset: {property: {metric: value}}}}``.
        summary: ``summary.json``.
        predictions: One for each file in ``predictions/``.
        missing: One sentence for each documented file that is not there.
        problems: One sentence for each thing that could not be read or is not sound.
        pretraining: The same for ``pretrain/``, where a pretraining stage ran.
    """

    path: Path
    recipe_text: str | None
    recipe: dict[str, Any]
    history: History
    evaluation: dict[str, Any]
    summary: dict[str, Any]
    predictions: tuple[PredictionSet, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    pretraining: RunFiles | None

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Task by name, from the summary, else from the recipe."""
        given = mapping(self.summary.get("tasks")) or mapping(self.recipe.get("tasks"))
        return {name: mapping(task) for name, task in given.items()}

    def is_learnt(self, property_name: str, *, dataset: str) -> bool:
        """Whether a task learns the property from that data set; true where no task is known."""
        plain_name = "energy" if property_name == "energy_per_atom" else property_name
        learnt = [task for name, task in self.tasks.items() if task.get("property", name) == plain_name]
        return not self.tasks or any(dataset in (task.get("data") or [dataset]) for task in learnt)

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: the summary is written last."""
        return bool(self.summary)


def mapping(value: object) -> dict[str, Any]:
    """Give ``value`` with text keys if it is a mapping, else an empty one: a half-written file lacks whole branches."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, Mapping) else {}


def read_run(run_dir: Path) -> RunFiles:
    """Read what there is of a run.

    Args:
        run_dir: A run directory: finished, still being written, or left by an interrupted job.

    Returns:
        Its contents; what is missing or broken is said in ``missing`` and ``problems``.

    Raises:
        InputError: There is no such directory, or nothing in it belongs to a run.
    """
    if not run_dir.is_dir():
        raise InputError(f"run directory '{run_dir}': no such directory")
    if not any((run_dir / name).exists() for name in _DESCRIBED):
        raise InputError(f"run directory '{run_dir}': not a run; it holds none of: {', '.join(_DESCRIBED)}")
    missing = [f"{name} is not there: {_WITHOUT[name]}." for name in _DESCRIBED if not (run_dir / name).exists()]
    notes: list[str] = []
    recipe_text = _read_text(run_dir / "recipe.yaml", notes)
    evaluation = _read_json(run_dir / "evaluation.json", notes)
    summary = _read_json(run_dir / "summary.json", notes)
    datasets = {name for split in evaluation.values() for name in mapping(split)} | set(mapping(summary.get("data")))
    pretrain_dir = run_dir / "pretrain"
    has_pretraining = pretrain_dir.is_dir() and any((pretrain_dir / name).exists() for name in _DESCRIBED)
    return RunFiles(
        path=run_dir,
        recipe_text=recipe_text,
        recipe=_parse_recipe(recipe_text, notes),
        history=read_history(run_dir / "metrics.csv", notes),
        evaluation=evaluation,
        summary=summary,
        predictions=_read_predictions(run_dir / "predictions", datasets, notes),
        missing=tuple(missing),
        problems=tuple(notes),
        pretraining=read_run(pretrain_dir) if has_pretraining else None,
    )


def _read_text(path: Path, notes: list[str]) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return None


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _read_text(path, notes)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        notes.append(f"{path.name} is not whole ({error}): the job may be writing it, or was stopped while it did.")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds {type(value).__name__}, not a mapping; it is left out.")
        return {}
    return value


def _parse_recipe(text: str | None, notes: list[str]) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        return mapping(yaml.safe_load(text))
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        notes.append(f"recipe.yaml does not parse ({problem}); it is shown as it stands.")
        return {}


def _read_predictions(folder: Path, datasets: set[str], notes: list[str]) -> tuple[PredictionSet, ...]:
    """Read ``{split}__{dataset}.npz``; slashes in data sets' names are underscores in file names."""
    name_of = {dataset.replace("/", "_"): dataset for dataset in datasets}
    found = []
    for path in sorted(folder.glob("*.npz")) if folder.is_dir() else ():
        split, separator, stem = path.stem.partition("__")
        if not separator:
            notes.append(f"predictions/{path.name} is not named SPLIT__DATASET.npz; it is left out.")
            continue
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            notes.append(f"predictions/{path.name} could not be read ({error}); it is left out.")
            continue
        prediction_set = PredictionSet(split=split, dataset=name_of.get(stem, stem), arrays=arrays)
        for name in prediction_set.properties:
            target, prediction = arrays[f"{name}__target"], arrays[f"{name}__prediction"]
            if len(target) != len(prediction):
                notes.append(
                    f"predictions/{path.name}: {name} has {len(target)} targets, {len(prediction)} predictions."
                )
        found.append(prediction_set)
    return tuple(found)
