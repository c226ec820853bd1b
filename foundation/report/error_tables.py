"""Error tables: what the model gets wrong, beside what a blind guess gets wrong, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.properties import PROPERTIES
from foundation.report.classification import Classification
from foundation.report.curves import metric_label
from foundation.report.quantities import (
    DisplayUnit,
    as_float,
    count,
    error_unit,
    number,
    percent,
    property_label,
)
from foundation.report.run_files import PredictionSet, RunFiles, mapping

_SCORES = ("auc", "accuracy", "mcc", "top1", "top2", "top3")
_SPLIT_ORDER = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True)
class ErrorRow:
    """One property of one data set in one split, regression.

    Attributes:
        dataset: The data set's name.
        property_name: As in the table of properties.
        label: The property in words.
        is_learnt: Whether a task learns it from this data set; else it came along.
        unit: What mae, rmse and baseline are shown in.
        mae: Mean absolute error, internal unit.
        rmse: Root mean square error, internal unit.
        count: How many values were judged.
        baseline: Mean absolute error of the blind guess, internal unit; None without predictions.
        baseline_name: What the blind guess is.
    """

    dataset: str
    property_name: str
    label: str
    is_learnt: bool
    unit: DisplayUnit
    mae: float | None
    rmse: float | None
    count: str
    baseline: float | None
    baseline_name: str

    @property
    def share(self) -> float | None:
        """The error as a share of the baseline's."""
        return self.mae / self.baseline if self.mae is not None and self.baseline else None


@dataclass(frozen=True)
class ScoreRow:
    """One classified property of one data set in one split.

    Attributes:
        dataset: The data set's name.
        property_name: As in the table of properties.
        label: The property in words.
        scores: Score in words and its value.
        count: How many entries were judged.
        baseline: Accuracy of always naming the commoner class; None without predictions.
    """

    dataset: str
    property_name: str
    label: str
    scores: tuple[tuple[str, str], ...]
    count: str
    baseline: float | None


@dataclass(frozen=True)
class SplitErrors:
    """All errors and scores of one split."""

    split: str
    errors: tuple[ErrorRow, ...]
    scores: tuple[ScoreRow, ...]


def error_tables(run: RunFiles, classified: list[Classification]) -> list[SplitErrors]:
    """The tables of every evaluated split, test first."""
    predictions = {(found.split, found.dataset): found for found in run.predictions}
    majority = {(found.split, found.dataset, found.property_name): found.majority for found in classified}
    tables = []
    for split in sorted(run.evaluation, key=lambda name: _SPLIT_ORDER.get(name, 3)):
        errors, scores = [], []
        for dataset, properties in mapping(run.evaluation[split]).items():
            for name, entry in mapping(properties).items():
                metrics = mapping(entry)
                if any(score in metrics for score in _SCORES):
                    scores.append(_score_row(dataset, name, metrics, majority.get((split, dataset, name))))
                elif metrics:
                    is_learnt = run.is_learnt(name, dataset=dataset)
                    errors.append(_error_row(dataset, name, metrics, predictions.get((split, dataset)), is_learnt))
        if errors or scores:
            tables.append(SplitErrors(split, tuple(errors), tuple(scores)))
    return tables


def baseline_error(name: str, target: np.ndarray, composition: np.ndarray | None) -> tuple[float, str]:
    """The mean absolute error of a guess that does not look at the structure.

    Args:
        name: The property.
        target: Labels, ``[entries, …]``, internal unit, at least one.

        composition: What the elements alone predict, shaped as ``target``; None where nothing is known of it.

    Returns:
        The error of what the elements alone predict where that is known; else of zero for vectors on atoms (forces:
        their mean is zero by symmetry); else of the labels' mean, component by component. And the guess in words.
    """
    if composition is not None and composition.shape == target.shape and np.isfinite(composition).all():
        return float(np.abs(target - composition).mean()), "composition"
    values = target.reshape(len(target), -1)
    row = PROPERTIES.get(name)
    if row is not None and row.level == "atom" and row.form == "vector":
        return float(np.abs(values).mean()), "zero"
    return float(np.abs(values - values.mean(axis=0)).mean()), "the mean"


def _error_row(
    dataset: str, name: str, metrics: dict[str, object], predictions: PredictionSet | None, is_learnt: bool
) -> ErrorRow:
    baseline, baseline_name = None, ""
    if predictions is not None and name in predictions.properties:
        target = np.asarray(predictions.arrays[f"{name}__target"], dtype=float)
        if target.size and np.isfinite(target).all():
            baseline, baseline_name = baseline_error(name, target, predictions.arrays.get(f"{name}__composition"))
    mae, rmse = as_float(metrics.get("mae")), as_float(metrics.get("rmse"))
    shown = count(metrics.get("count"))
    label, unit = property_label(name), error_unit(name)
    return ErrorRow(dataset, name, label, is_learnt, unit, mae, rmse, shown, baseline, baseline_name)


def _score_row(dataset: str, name: str, metrics: dict[str, object], baseline: float | None) -> ScoreRow:
    scores = []
    for score in _SCORES:
        value = as_float(metrics.get(score))
        if value is not None:
            scores.append((metric_label(score), number(value) if score in ("auc", "mcc") else percent(value)))
    return ScoreRow(dataset, name, property_label(name), tuple(scores), count(metrics.get("count")), baseline)
