"""Parity plots: predicted against reference values, as points or density, with the distribution of the residuals."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from foundation.properties import PROPERTIES
from foundation.report.axes import WIDTH, Scale, drawing, frame, padded
from foundation.report.quantities import count, error_unit, number, property_label, value_unit
from foundation.report.run_files import PredictionSet

MAX_POINTS = 1200
"""More points than this are drawn as density: single dots would hide each other."""
NUM_SHADES = 7
_NUM_BINS = 72
_HEIGHT = 456.0
_MAX_RESIDUAL_BINS = 60


@dataclass(frozen=True)
class Parity:
    """Labels and predictions of one property on one split, flattened to components.

    Attributes:
        property_name: As in the table of properties, or ``energy_per_atom``.
        dataset: The data set's name.
        split: ``test``, ``val`` or ``train``.
        target: Finite components in internal units.
        prediction: The same, as predicted.
        num_not_finite: Components left out because the prediction is NaN or infinite.
        is_relative: Whether what the composition alone predicts has been taken away from both.
    """

    property_name: str
    dataset: str
    split: str
    target: np.ndarray
    prediction: np.ndarray
    num_not_finite: int
    is_relative: bool

    @property
    def mae(self) -> float:
        """Mean absolute error of the components, internal unit."""
        return float(np.abs(self.prediction - self.target).mean())

    @property
    def rmse(self) -> float:
        """Root mean square error of the components, internal unit."""
        return float(np.sqrt(((self.prediction - self.target) ** 2).mean()))

    @property
    def determination(self) -> float | None:
        """R², one minus the ratio of squared residuals to the labels' variance; None where the labels do not vary."""
        spread = float(((self.target - self.target.mean()) ** 2).sum())
        return None if spread == 0 else 1.0 - float(((self.prediction - self.target) ** 2).sum()) / spread


def parities(prediction_set: PredictionSet) -> list[Parity]:
    """Every regression property of a split with predictions; energies per atom stand for energies where both are."""
    found = []
    for name in prediction_set.properties:
        if name in PROPERTIES and PROPERTIES[name].kind == "classification":
            continue
        if name == "energy" and "energy_per_atom" in prediction_set.properties:
            continue
        target = np.asarray(prediction_set.arrays[f"{name}__target"], dtype=float).ravel()
        prediction = np.asarray(prediction_set.arrays[f"{name}__prediction"], dtype=float).ravel()
        if len(target) != len(prediction):
            continue
        composition = np.asarray(prediction_set.arrays.get(f"{name}__composition", ()), dtype=float).ravel()
        is_relative = len(composition) == len(target)
        if is_relative:
            target, prediction = target - composition, prediction - composition
        finite = np.isfinite(target) & np.isfinite(prediction)
        if finite.any():
            left_out = int((~finite).sum())
            found.append(
                Parity(
                    name,
                    prediction_set.dataset,
                    prediction_set.split,
                    target[finite],
                    prediction[finite],
                    left_out,
                    is_relative,
                )
            )
    return found


def parity_limits(parity: Parity) -> tuple[float, float]:
    """Limits of both axes: everything, but of many values all but the wildest one in a thousand."""
    both = np.concatenate([parity.target, parity.prediction])
    edge = 0.0005 if len(parity.target) > MAX_POINTS else 0.0
    low, high = np.quantile(both, edge, method="higher"), np.quantile(both, 1.0 - edge, method="lower")
    return padded(float(low), float(high))


def caption(parity: Parity) -> str:
    """Errors in words, with their unit, the number of values, and what the frame does not show."""
    unit = error_unit(parity.property_name)
    text = f"MAE {unit.show_with_unit(parity.mae)}, RMSE {unit.show_with_unit(parity.rmse)}"
    if parity.determination is not None:
        text += (
            ", R²\N{NO-BREAK SPACE}above 0.9999"
            if parity.determination > 0.9999
            else f", R²\N{NO-BREAK SPACE}{number(parity.determination, digits=4)}"
        )
    text += f"; {count(len(parity.target))} values"
    low, high = parity_limits(parity)
    smaller, larger = np.minimum(parity.target, parity.prediction), np.maximum(parity.target, parity.prediction)
    outside = int(((smaller < low) | (larger > high)).sum())
    if outside:
        text += f", {count(outside)} outside the frame"
    if parity.num_not_finite:
        text += f", {count(parity.num_not_finite)} predictions not finite"
    return text + "."


def draw_parity(parity: Parity) -> Markup:
    """Draw predicted against reference values, and below them the histogram of the residuals."""
    unit, small = value_unit(parity.property_name), error_unit(parity.property_name)
    limits = parity_limits(parity)
    side = WIDTH - 12 - 52
    x, y = Scale(*limits, 52.0, 52 + side), Scale(*limits, 24 + side, 24.0)
    less = " − composition" if parity.is_relative else ""
    labels = [_with_unit(name + less, unit.label) for name in ("reference", "predicted")]
    body = [frame(x, y, x_label=labels[0], y_label=labels[1])]
    draw = _draw_density if len(parity.target) > MAX_POINTS else _draw_points
    body.append(draw(parity, x, y))
    body.append(
        Markup('<path class="diagonal" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(x.start, y.start, x.end, y.end)
    )
    body.append(_draw_residuals(parity, small.factor, _with_unit("predicted − reference", small.label)))
    description = (
        f"Parity plot of {property_label(parity.property_name)}, {parity.split} split of {parity.dataset}: "
        f"{caption(parity)} Below it the histogram of residuals."
    )
    return drawing(Markup("").join(body), height=_HEIGHT, description=description)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _draw_points(parity: Parity, x: Scale, y: Scale) -> Markup:
    columns, rows = x.pixels(parity.target), y.pixels(parity.prediction)
    inside = (rows <= y.start) & (rows >= y.end)
    dots = "".join(f"M{c:.1f} {r:.1f}h0" for c, r in zip(columns[inside], rows[inside], strict=True))
    size = "points few" if len(columns) <= 300 else "points"
    return Markup('<path class="{}" d="{}"/>').format(size, dots)


def _draw_density(parity: Parity, x: Scale, y: Scale) -> Markup:
    """Count points in square bins, shaded by the logarithm of the count; runs of one shade are one rectangle."""
    edges = np.linspace(x.low, x.high, _NUM_BINS + 1)
    counts, _, _ = np.histogram2d(parity.prediction, parity.target, bins=(edges, edges))
    shades = np.zeros(counts.shape, dtype=int)
    filled = counts > 0
    scaled = np.log(counts[filled]) / max(np.log(counts.max()), 1e-9)
    shades[filled] = 1 + np.minimum((scaled * NUM_SHADES).astype(int), NUM_SHADES - 1)
    columns, rows = x.pixels(edges), y.pixels(edges)
    paths: list[list[str]] = [[] for _ in range(NUM_SHADES)]
    for row in range(_NUM_BINS):
        changes = np.flatnonzero(np.diff(shades[row], prepend=-1, append=-1))
        for first, end in itertools.pairwise(changes):
            shade = shades[row, first]
            if shade:
                top, height = rows[row + 1], rows[row] - rows[row + 1]
                paths[shade - 1].append(
                    f"M{columns[first]:.1f} {top:.1f}H{columns[end]:.1f}v{height:.2f}H{columns[first]:.1f}z"
                )
    return Markup("").join(
        Markup('<path class="{}" d="{}"/>').format(f"density d{shade}", "".join(cells))
        for shade, cells in enumerate(paths, start=1)
        if cells
    )


def _draw_residuals(parity: Parity, factor: float, label: str) -> Markup:
    """A histogram of the residuals, on an axis that is symmetric about zero and holds 99 in 100 of them."""
    residuals = (parity.prediction - parity.target) * factor
    reach = float(np.quantile(np.abs(residuals), 0.99)) or 1.0
    x, bottom, height = Scale(-reach, reach, 52.0, WIDTH - 12), _HEIGHT - 40, 40
    num_bins = int(np.clip(2 * np.sqrt(len(residuals)), 8, _MAX_RESIDUAL_BINS))
    counts, edges = np.histogram(residuals, bins=num_bins, range=(-reach, reach))
    columns = x.pixels(edges)
    rows = bottom - counts / max(int(counts.max()), 1) * height
    outline = "".join(f"V{row:.1f}H{end:.1f}" for row, end in zip(rows, columns[1:], strict=True))
    ticks = Markup("").join(
        Markup(
            '<path class="axis" d="M{0:.1f} {1}v4"/>'
            '<text class="tick" x="{0:.1f}" y="{2}" text-anchor="middle">{3}</text>'
        ).format(x.pixel(value), bottom, bottom + 15, text)
        for value, text in x.ticks(5)
    )
    return Markup(
        '<path class="histogram" d="M{0:.1f} {1}{2}V{1}z"/><path class="diagonal" d="M{3:.1f} {1}v-{4}"/>'
        '<path class="axis" d="M{0:.1f} {1}H{5:.1f}"/>{6}'
        '<text class="title" x="{5:.1f}" y="{7}" text-anchor="end">{8}</text>'
    ).format(x.start, bottom, outline, x.pixel(0.0), height, x.end, ticks, bottom + 30, label)


def residual_summary(parity: Parity) -> str:
    """Median and 95th percentile of the absolute residuals, with the unit."""
    unit = error_unit(parity.property_name)
    median, high = np.quantile(np.abs(parity.prediction - parity.target), (0.5, 0.95)) * unit.factor
    text = f"Half of all residuals are below {number(float(median))}, 95 % below {number(float(high))} {unit.label}"
    return text.strip() + "."
