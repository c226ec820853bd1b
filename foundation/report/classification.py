"""Figures of classification: ROC curve, confusion matrix, and how often a true site is among the first k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from foundation.properties import PROPERTIES
from foundation.report.axes import WIDTH, Scale, drawing, frame
from foundation.report.quantities import as_float, count, percent, property_label
from foundation.report.run_files import PredictionSet

_CLASS_NAMES = {"handedness": ("S", "R"), "site_of_metabolism": ("no site", "site")}
_HEIGHT = 372.0
_MAX_CORNERS = 400


@dataclass(frozen=True)
class Classification:
    """Labels and scores of one two-class property on one split.

    Attributes:
        property_name: As in the table of properties.
        dataset: The data set's name.
        split: ``test``, ``val`` or ``train``.
        is_positive: The label of each entry.
        logit: The predicted logit of the positive class.
    """

    property_name: str
    dataset: str
    split: str
    is_positive: np.ndarray
    logit: np.ndarray

    @property
    def class_names(self) -> tuple[str, str]:
        """The negative and the positive class."""
        return _CLASS_NAMES.get(self.property_name, ("0", "1"))

    @property
    def confusion(self) -> np.ndarray:
        """Counts, rows the true class, columns the predicted one, negative first."""
        guessed = self.logit > 0
        pairs = 2 * self.is_positive.astype(int) + guessed.astype(int)
        return np.bincount(pairs, minlength=4).reshape(2, 2)

    @property
    def accuracy(self) -> float:
        """Share of right answers at logit 0."""
        return float(np.trace(self.confusion)) / len(self.logit)

    @property
    def majority(self) -> float:
        """Accuracy of always naming the commoner class."""
        share = float(self.is_positive.mean())
        return max(share, 1.0 - share)


def classifications(prediction_set: PredictionSet) -> list[Classification]:
    """Every property with two classes of a split that has predictions with at least one finite logit."""
    found = []
    for name in prediction_set.properties:
        if name not in PROPERTIES or PROPERTIES[name].kind != "classification":
            continue
        target = np.asarray(prediction_set.arrays[f"{name}__target"], dtype=float)
        logit = np.asarray(prediction_set.arrays[f"{name}__prediction"], dtype=float)
        if target.ndim != 1 or target.shape != logit.shape:
            continue
        finite = np.isfinite(target) & np.isfinite(logit)
        if finite.any():
            dataset, split = prediction_set.dataset, prediction_set.split
            found.append(Classification(name, dataset, split, target[finite] > 0, logit[finite]))
    return found


def roc(result: Classification) -> tuple[np.ndarray, np.ndarray, float] | None:
    """The receiver operating characteristic.

    Returns:
        False positive rates, true positive rates, and the area; None where only one class is present. Equal logits
        are one corner, so ties count one half.

    Source: Fawcett, Pattern Recognit. Lett. 27, 861 (2006), algorithms 1 and 2.
    """
    order = np.argsort(-result.logit, kind="stable")
    logit, positive = result.logit[order], result.is_positive[order]
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return None
    last_of_tie = np.append(np.flatnonzero(np.diff(logit)), len(logit) - 1)
    true_rate = np.concatenate([[0.0], np.cumsum(positive)[last_of_tie] / num_positive])
    false_rate = np.concatenate([[0.0], np.cumsum(~positive)[last_of_tie] / num_negative])
    area = float(np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2))
    return false_rate, true_rate, area


def draw_roc(result: Classification) -> Markup | None:
    """The ROC curve with the diagonal of guessing; None where only one class is present."""
    curve = roc(result)
    if curve is None:
        return None
    false_rate, true_rate, area = curve
    if len(false_rate) > _MAX_CORNERS:
        chosen = np.unique(np.linspace(0, len(false_rate) - 1, _MAX_CORNERS).astype(int))
        false_rate, true_rate = false_rate[chosen], true_rate[chosen]
    x, y = Scale(0.0, 1.0, 46.0, WIDTH - 12), Scale(0.0, 1.0, _HEIGHT - 42, 24.0)
    points = "L".join(f"{c:.1f} {r:.1f}" for c, r in zip(x.pixels(false_rate), y.pixels(true_rate), strict=True))
    body = frame(x, y, x_label="false positive rate", y_label="true positive rate") + Markup(
        '<path class="diagonal" d="M{0:.1f} {1:.1f}L{2:.1f} {3:.1f}"/><path class="band c0" d="M{4}L{2:.1f} {1:.1f}Z"/>'
        '<path class="line c0" d="M{4}"/><text class="value" x="{5}" y="{6}" text-anchor="end">area {7:.3f}</text>'
    ).format(x.start, y.start, x.end, y.end, points, WIDTH - 24, _HEIGHT - 62, area)
    name = property_label(result.property_name)
    description = f"ROC curve of {name}, {result.split} split of {result.dataset}: area {area:.3f}; guessing gives 0.5."
    return drawing(body, height=_HEIGHT, description=description)


def draw_confusion(result: Classification) -> Markup:
    """Four cells: how many of each true class were called what, shaded by the share of the true class."""
    left, top, cell, gap = 84, 48, 126, 4
    parts = [
        Markup('<text class="title" x="{}" y="14" text-anchor="middle">predicted</text>').format(left + cell + gap / 2),
        Markup('<text class="title" x="4" y="34">true</text>'),
    ]
    counts = result.confusion
    for index, name in enumerate(result.class_names):
        column, row = left + index * (cell + gap) + cell / 2, top + index * (cell + gap) + cell / 2
        parts.append(Markup('<text class="label" x="{}" y="36" text-anchor="middle">{}</text>').format(column, name))
        parts.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="end">{}</text>').format(left - 8, row + 4, name)
        )
    for true in range(2):
        total = max(int(counts[true].sum()), 1)
        for guess in range(2):
            share = counts[true, guess] / total
            column, row = left + guess * (cell + gap), top + true * (cell + gap)
            kind = "right" if true == guess else "wrong"
            parts.append(
                Markup(
                    '<rect class="cell {}" x="{}" y="{}" width="{}" height="{}" rx="4" fill-opacity="{:.2f}"/>'
                    '<text class="large" x="{}" y="{}" text-anchor="middle">{}</text>'
                    '<text class="share" x="{}" y="{}" text-anchor="middle">{}</text>'
                ).format(
                    *(kind, column, row, cell, cell, 0.08 + 0.5 * share),
                    *(column + cell / 2, row + cell / 2, count(int(counts[true, guess]))),
                    *(column + cell / 2, row + cell / 2 + 20, percent(float(share))),
                )
            )
    cells = ", ".join(
        f"{int(counts[t, g])} true {result.class_names[t]} called {result.class_names[g]}"
        for t in range(2)
        for g in range(2)
    )
    name = property_label(result.property_name)
    description = f"Confusion matrix of {name}, {result.split} split of {result.dataset}: {cells}."
    return drawing(Markup("").join(parts), height=320.0, description=description)


def draw_top_k(metrics: dict[str, object], *, description: str) -> Markup | None:
    """Bars for how often a true site is among the first 1, 2 and 3 atoms; None where no such metric was measured."""
    values = {k: value for k in (1, 2, 3) if (value := as_float(metrics.get(f"top{k}"))) is not None}
    if not values:
        return None
    left, full, thickness, gap = 64, WIDTH - 64 - 64, 34, 22
    parts = []
    for index, (k, value) in enumerate(values.items()):
        row = 22 + index * (thickness + gap)
        parts.append(
            Markup(
                '<text class="label" x="{0}" y="{1}" text-anchor="end">top {2}</text>'
                '<rect class="track" x="{3}" y="{4}" width="{5}" height="{6}" rx="3"/>'
                '<rect class="bar" x="{3}" y="{4}" width="{7:.1f}" height="{6}" rx="3"/>'
                '<text class="value" x="{8}" y="{1}">{9}</text>'
            ).format(
                *(left - 10, row + thickness / 2 + 4, k, left, row, full, thickness),
                *(full * min(max(value, 0.0), 1.0), left + full + 8, percent(value)),
            )
        )
    shown = ", ".join(f"top {k} {percent(value)}" for k, value in values.items())
    height = 22.0 + len(values) * (thickness + gap)
    return drawing(Markup("").join(parts), height=height, description=f"{description}: {shown}.")
