"""Axes of the report's drawings: scales, ticks at round numbers, and a frame of inline SVG in the page's own colours.

Drawings are written by hand rather than by matplotlib: they take the page's font and its light or dark colours, stay
readable on a telephone, and a page of thirty costs milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH = 360.0


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``; above ``low``.
        start: Pixel of ``low``.
        end: Pixel of ``high``.
        logarithmic: Whether equal ratios are equal distances; then both limits are positive.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Pixel of each value."""
        values = np.asarray(values, dtype=float)
        if self.logarithmic:
            values = np.log(np.maximum(values, 1e-300))
            low, high = math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def pixel(self, value: float) -> float:
        """Pixel of one value."""
        return float(self.pixels(np.asarray([value]))[0])

    def ticks(self, target: int) -> list[tuple[float, str]]:
        """About ``target`` round values inside the limits, each with its label."""
        return (
            _log_ticks(self.low, self.high, target) if self.logarithmic else _linear_ticks(self.low, self.high, target)
        )


def padded(low: float, high: float, *, fraction: float = 0.04) -> tuple[float, float]:
    """Limits a little wider than the data, never of zero width."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    margin = (high - low) * fraction
    return low - margin, high + margin


def padded_log(low: float, high: float) -> tuple[float, float]:
    """The same for a logarithmic scale; both are positive."""
    factor = max((high / low) ** 0.05, 1.05)
    return low / factor, high * factor


def _linear_ticks(low: float, high: float, target: int) -> list[tuple[float, str]]:
    rough = (high - low) / target
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [index * step for index in range(first, last + 1)]
    largest = max((abs(value) for value in values), default=0.0)
    exponent = 3 * (math.floor(math.log10(largest)) // 3) if largest > 0 else 0
    if (largest >= 1e4 or largest < 1e-2) and step >= 10.0 ** (exponent - 2):
        suffix = {0: "", 3: "k", 6: "M", 9: "G"}.get(exponent, "·10" + _superscript(exponent))
        size = 10.0**exponent
        return [
            (value, _plain(value / size, step / size) + (suffix if index else ""))
            for index, value in zip(range(first, last + 1), values, strict=True)
        ]
    return [(value, _plain(value, step)) for value in values]


def _plain(value: float, step: float) -> str:
    """All decimals that the step has, no more."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += abs(round(step, decimals) - step) > 1e-6 * step
    text = f"{abs(value):.{decimals}f}"
    return ("−" if value < 0 and float(text) else "") + text


def _superscript(value: int) -> str:
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _log_ticks(low: float, high: float, target: int) -> list[tuple[float, str]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        values = [f * 10.0**e for e in range(first, last + 1) for f in factors if low <= f * 10.0**e <= high]
        if len(values) >= min(target, 3):
            break
    stride = max(1, math.ceil(len(values) / (target + 1)))
    return [(value, _log_label(value)) for value in values[::stride]]


def _log_label(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + _superscript(exponent)
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:g}·{power}"


def frame(x: Scale, y: Scale, *, x_label: str, y_label: str, x_ticks: int = 5, y_ticks: int = 5) -> Markup:
    """Grid lines, tick labels and axis titles; the y title lies flat above the axis, where it is easiest to read."""
    left, right = min(x.start, x.end), max(x.start, x.end)
    bottom, top = max(y.start, y.end), min(y.start, y.end)
    parts = []
    for value, label in y.ticks(y_ticks):
        row = y.pixel(value)
        parts.append(f'<path class="gridline" d="M{left:.1f} {row:.1f}H{right:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 5:.1f}" y="{row + 3.5:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    for value, label in x.ticks(x_ticks):
        column = x.pixel(value)
        parts.append(f'<path class="axis" d="M{column:.1f} {bottom:.1f}v4"/>')
        parts.append(
            f'<text class="tick" x="{column:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{escape(label)}</text>'
        )
    parts.append(f'<path class="axis" d="M{left:.1f} {bottom:.1f}H{right:.1f}"/>')
    parts.append(f'<text class="title" x="4" y="{top - 8:.1f}">{escape(y_label)}</text>')
    parts.append(
        f'<text class="title" x="{right:.1f}" y="{bottom + 30:.1f}" text-anchor="end">{escape(x_label)}</text>'
    )
    return Markup("".join(parts))


def drawing(body: Markup, *, height: float, description: str) -> Markup:
    """An inline SVG image that a screen reader announces by ``description``."""
    template = Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" class="chart">{}</svg>')
    return template.format(WIDTH, height, description, body)
