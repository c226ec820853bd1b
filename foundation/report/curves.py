"""Learning curves: which logged series share a panel, and how a panel is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from foundation.report.axes import WIDTH, Scale, drawing, frame, padded, padded_log
from foundation.report.history import History, Series, parse_error_name, stage_label
from foundation.report.quantities import error_unit, number, property_label

NUM_COLOURS = 8
_HEIGHT = 236.0
_MAX_POINTS = 240
_HIGHER_IS_BETTER = ("auc", "accuracy", "mcc", "top1", "top2", "top3")
_DRAWN_METRICS = ("mae", "auc", "accuracy", "top2")
_METRIC_LABELS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "auc": "ROC AUC",
    "mcc": "MCC",
    "top1": "top-1",
    "top2": "top-2",
    "top3": "top-3",
}


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        label: As the legend says it.
        colour: Index into the page's colours, 0 to 7.
        steps: Optimizer steps.
        values: In the panel's unit.
        is_faint: Drawn thin and pale: errors on training batches, behind those of the validation.
    """

    label: str
    colour: int
    steps: np.ndarray
    values: np.ndarray
    is_faint: bool = False


@dataclass(frozen=True)
class Panel:
    """One small diagram of the learning curves.

    Attributes:
        title: What is drawn.
        unit: Unit of the values; empty if none.
        lines: At least one, each with at least one point.
        logarithmic: Whether the value axis is logarithmic.
        best: Label, best value and its step of each validation line, for panels of errors.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    logarithmic: bool
    best: tuple[tuple[str, float, int], ...] = ()


def metric_label(metric: str) -> str:
    """A metric as people write it."""
    return _METRIC_LABELS.get(metric, metric)


def curve_panels(history: History) -> list[Panel]:
    """Sort every series into panels: losses, errors of each property, learning rate, throughput.

    Mean absolute errors, accuracies, areas under the ROC curve and top-2 shares get a panel for each property with a
    line for each data set; the other scores are left to the tables.
    """
    panels = [*_loss_panels(history), *_error_panels(history)]
    for title, unit, words in (
        ("learning rate", "", ("learning_rate", "lr-")),
        ("throughput", "structures/s", ("structures_per_s",)),
        ("waiting for data", "% of the time", ("loader_wait", "wait_percent")),
    ):
        found = [series for name, series in history.series.items() if any(word in name for word in words)]
        if found:
            labels = [series.name.removeprefix("train/") for series in found]
            lines = tuple(_line(series, label, k) for k, (series, label) in enumerate(zip(found, labels, strict=True)))
            panels.append(Panel(title, unit, lines, logarithmic=False))
    if not any(panel.title == "throughput" for panel in panels):
        panels += _speed_panels(history)
    return panels


def _speed_panels(history: History) -> list[Panel]:
    """Steps a second between logged rows, by the clock of the log; a clock set back by a resume is left out."""
    clock = np.asarray(history.clock, dtype=float).reshape(-1, 2)
    steps, seconds = np.diff(clock, axis=0).T
    moved = seconds > 0
    if not moved.any():
        return []
    line = Line("steps per second", 0, clock[1:, 0][moved], steps[moved] / seconds[moved])
    return [Panel("speed, validation included", "optimizer steps/s", (line,), logarithmic=False)]


def _loss_panels(history: History) -> list[Panel]:
    totals, parts = [], []
    for name, series in history.series.items():
        if parse_error_name(name) is None and "loss" in name:
            (totals if name.partition("/")[2] == "loss" or name == "loss" else parts).append(series)
    panels = []
    if totals:
        order = {"train": 0, "val": 1}
        totals.sort(key=lambda series: order.get(series.stage, 2))
        lines = tuple(_line(series, stage_label(series.stage) or "loss", k) for k, series in enumerate(totals))
        panels.append(Panel("total loss", "normalised", lines, _is_wide(lines)))
    for stage in dict.fromkeys(series.stage for series in parts):
        chosen = [series for series in parts if series.stage == stage]
        labels = [_part_label(series.name) for series in chosen]
        lines = tuple(_line(series, label, k) for k, (series, label) in enumerate(zip(chosen, labels, strict=True)))
        panels.append(Panel(f"{stage_label(stage)} loss by objective", "normalised", lines, _is_wide(lines)))
    return panels


def _part_label(name: str) -> str:
    words = [part.removesuffix("_loss") for part in name.split("/")[1:]]
    return " ".join(property_label(word) for word in words if word and word != "loss") or name


def _error_panels(history: History) -> list[Panel]:
    names = {column: parsed for column in history.series if (parsed := parse_error_name(column)) is not None}
    datasets = list(dict.fromkeys(parsed.dataset for parsed in names.values()))
    with_energy_per_atom = any(parsed.property == "energy_per_atom" for parsed in names.values())
    panels = []
    for key in dict.fromkeys((parsed.property, parsed.metric) for parsed in names.values()):
        property_name, metric = key
        if metric not in _DRAWN_METRICS or (property_name == "energy" and with_energy_per_atom):
            continue
        higher = metric in _HIGHER_IS_BETTER
        unit = error_unit(property_name)
        factor, label = (1.0, "") if higher else (unit.factor, unit.label)
        lines, judged = [], []
        for column, parsed in names.items():
            if (parsed.property, parsed.metric) != key or parsed.stage == "test":
                continue
            series, is_train = history.series[column], parsed.stage == "train"
            text = parsed.dataset + (" (training)" if is_train else "")
            lines.append(_line(series, text, datasets.index(parsed.dataset), factor=factor, is_faint=is_train))
            if not is_train:
                judged.append(lines[-1])
        if not lines:
            continue
        if not judged:
            lines = [replace(line, is_faint=False) for line in lines]
        best = tuple(_best(line, higher=higher) for line in judged)
        title = f"{property_label(property_name)}, {metric_label(metric)}"
        panels.append(Panel(title, label, tuple(lines), not higher and _is_wide(tuple(lines)), best))
    return panels


def _best(line: Line, *, higher: bool) -> tuple[str, float, int]:
    index = int(np.argmax(line.values) if higher else np.argmin(line.values))
    return line.label, float(line.values[index]), int(line.steps[index])


def _line(series: Series, label: str, colour: int, *, factor: float = 1.0, is_faint: bool = False) -> Line:
    steps, values = np.asarray(series.steps), np.asarray(series.values, dtype=float) * factor
    return Line(label, colour % NUM_COLOURS, steps, values, is_faint)


def _is_wide(lines: tuple[Line, ...]) -> bool:
    """Whether a logarithmic axis shows the lines better: all positive, over more than a factor of four."""
    values = np.concatenate([line.values for line in lines])
    return bool(values.min() > 0 and values.max() > 4 * values.min())


def thin_out(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average a long series over equal numbers of points.

    Returns:
        Steps, means, smallest and largest value of each bin; of single points where the series is short.
    """
    if len(steps) <= _MAX_POINTS:
        return steps, values, values, values
    bins = np.array_split(np.arange(len(steps)), _MAX_POINTS)
    return (
        np.array([steps[chosen].mean() for chosen in bins]),
        np.array([values[chosen].mean() for chosen in bins]),
        np.array([values[chosen].min() for chosen in bins]),
        np.array([values[chosen].max() for chosen in bins]),
    )


def draw_panel(panel: Panel) -> Markup:
    """Draw one panel; long noisy series become their running mean inside the band of their extremes."""
    values = np.concatenate([line.values for line in panel.lines])
    steps = np.concatenate([line.steps for line in panel.lines])
    low, high = float(values.min()), float(values.max())
    limits = padded_log(low, high) if panel.logarithmic else padded(low, high)
    if not panel.logarithmic and low >= 0 and low < 0.5 * high:
        limits = (0.0, limits[1])
    last = max(float(steps.max()), 1.0)
    x = Scale(0.0, last, 46.0, WIDTH - 12)
    y = Scale(*limits, _HEIGHT - 38, 24.0, panel.logarithmic)
    body = [frame(x, y, x_label="optimizer step", y_label=panel.unit)]
    body += [_draw_line(line, x, y) for line in panel.lines]
    ends = "; ".join(
        f"{line.label}: from {number(float(line.values[0]))} to {number(float(line.values[-1]))}"
        for line in panel.lines
    )
    description = f"{panel.title} ({panel.unit or 'no unit'}) against optimizer step. {ends}."
    group = Markup('<g data-scales="{}" data-unit="{}">{}</g>').format(_scales(x, y), panel.unit, Markup("").join(body))
    return drawing(group, height=_HEIGHT, description=description)


def _scales(x: Scale, y: Scale) -> str:
    """Both scales as numbers, from which the page's script reads a value under the pointer."""
    numbers = (x.start, x.end, x.low, x.high, y.start, y.end, y.low, y.high, int(y.logarithmic))
    return " ".join(f"{value:.6g}" for value in numbers)


def _draw_line(line: Line, x: Scale, y: Scale) -> Markup:
    steps, means, lows, highs = thin_out(line.steps, line.values)
    columns, rows = x.pixels(steps), y.pixels(means)
    colour = f"c{line.colour} faint" if line.is_faint else f"c{line.colour}"
    if len(steps) == 1:
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(f"dot {colour}", columns[0], rows[0])
    band = Markup("")
    if lows is not means:
        outline = np.concatenate(
            [np.stack([columns, y.pixels(highs)], 1), np.stack([columns, y.pixels(lows)], 1)[::-1]]
        )
        band = Markup('<path class="{}" d="M{}Z"/>').format(f"band {colour}", _path(outline))
    path = _path(np.stack([columns, rows], 1))
    return band + Markup('<path class="line {}" data-label="{}" d="M{}"/>').format(colour, line.label, path)


def _path(points: np.ndarray) -> str:
    return "L".join(f"{column:.1f} {row:.1f}" for column, row in points)
