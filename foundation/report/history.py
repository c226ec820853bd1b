"""The series of metrics.csv: what was logged, at which step, sorted into the panels of the learning curves."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from foundation.properties import PROPERTIES

_CLOCK_COLUMNS = ("epoch", "step", "wall_s")
_METRICS = ("mae", "rmse", "auc", "accuracy", "mcc", "top1", "top2", "top3")
_PROPERTY_NAMES = sorted({*PROPERTIES, "energy_per_atom"}, key=len, reverse=True)
_ERROR_NAME = re.compile(
    rf"^(?P<property>{'|'.join(map(re.escape, _PROPERTY_NAMES))})_(?P<metric>{'|'.join(_METRICS)})(?:_(?P<unit>.+))?$"
)
_STAGE_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Series:
    """One logged quantity over the run.

    Attributes:
        name: The column of metrics.csv.
        steps: Optimizer steps, increasing.
        values: One finite value a step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def stage(self) -> str:
        """``train``, ``val`` or ``test``; empty for columns without a stage."""
        return self.name.partition("/")[0] if "/" in self.name else ""


@dataclass(frozen=True)
class ErrorName:
    """A metric's column name taken apart: ``{stage}/{dataset}/{property}_{metric}_{unit}``."""

    stage: str
    dataset: str
    property: str
    metric: str


@dataclass(frozen=True)
class History:
    """Every series of a run.

    Attributes:
        series: By column name, those with at least one finite value.
        last_step: The last step logged, 0 if none.
        last_epoch: The last epoch logged, or None.
        wall_s: Seconds at the last row, or None.
        clock: Step and seconds of each row that has both, steps increasing.
        not_finite: Column names with the number of NaN or infinite values that were logged.
    """

    series: dict[str, Series] = field(default_factory=dict)
    last_step: int = 0
    last_epoch: int | None = None
    wall_s: float | None = None
    clock: tuple[tuple[int, float], ...] = ()
    not_finite: dict[str, int] = field(default_factory=dict)


def parse_error_name(column: str) -> ErrorName | None:
    """Take a metric's column name apart, or None where it is not an error of a property."""
    parts = column.split("/")
    match = _ERROR_NAME.match(parts[-1])
    if match is None or len(parts) < 3:
        return None
    return ErrorName(parts[0], "/".join(parts[1:-1]), match["property"], match["metric"])


def stage_label(stage: str) -> str:
    """A stage as people say it."""
    return _STAGE_NAMES.get(stage, stage)


def read_history(path: Path, notes: list[str]) -> History:
    """Read metrics.csv.

    A resumed run repeats steps that its interrupted forerunner had logged already; where the step goes back, what was
    logged from there on is replaced. A last line cut off in the middle is left out.

    Args:
        path: The file; it may be absent.
        notes: Sentences about what could not be read are appended here.

    Returns:
        The series.
    """
    if not path.is_file():
        return History()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        notes.append(f"metrics.csv could not be read: {error}.")
        return History()
    points: dict[str, list[tuple[int, float]]] = {}
    not_finite: dict[str, int] = {}
    clock: list[tuple[int, float]] = []
    last_step, last_epoch, wall_s = 0, None, None
    for row in rows:
        step = _number(row.get("step"))
        if step is None or None in row or None in row.values():
            continue
        step = int(step)
        if step < last_step:
            for series in (*points.values(), clock):
                while series and series[-1][0] >= step:
                    series.pop()
        last_step = step
        epoch = _number(row.get("epoch"))
        last_epoch = last_epoch if epoch is None else int(epoch)
        wall_s = _number(row.get("wall_s")) or wall_s
        if wall_s is not None and (not clock or step > clock[-1][0]):
            clock.append((step, wall_s))
        for name, text in row.items():
            value = _number(text)
            if name in _CLOCK_COLUMNS or value is None:
                continue
            if not math.isfinite(value):
                not_finite[name] = not_finite.get(name, 0) + 1
                continue
            series = points.setdefault(name, [])
            if series and series[-1][0] == step:
                series.pop()
            series.append((step, value))
    for name, count in not_finite.items():
        notes.append(f"metrics.csv: '{name}' was not finite {count} times.")
    if not points:
        notes.append("metrics.csv holds no values yet.")
    series = {
        name: Series(name, tuple(step for step, _ in pairs), tuple(value for _, value in pairs))
        for name, pairs in points.items()
        if pairs
    }
    return History(series, last_step, last_epoch, wall_s, tuple(clock), not_finite)


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return None
