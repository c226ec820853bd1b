"""How numbers are shown: the unit a reader expects, the digits that mean something, times and counts in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foundation.properties import PROPERTIES

_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class DisplayUnit:
    """The unit that errors of one property are shown in.

    Attributes:
        label: As printed; empty for numbers without a unit.
        factor: What a value in internal units is multiplied by.
    """

    label: str
    factor: float

    def show(self, value: float | None) -> str:
        """A value in internal units as a number in this unit, three significant digits."""
        return number(None if value is None else value * self.factor)

    def show_with_unit(self, value: float | None) -> str:
        """The same, with the unit behind it."""
        return f"{self.show(value)}\N{NO-BREAK SPACE}{self.label}" if self.label else self.show(value)


def internal_unit(property_name: str) -> str:
    """Internal unit of a property, ``energy_per_atom`` included; empty for numbers without a unit or unknown names."""
    if property_name == "energy_per_atom":
        return "eV/atom"
    unit = PROPERTIES[property_name].unit if property_name in PROPERTIES else ""
    return "" if unit == "1" else unit


def value_unit(property_name: str) -> DisplayUnit:
    """The unit that a property's values are shown in: the internal one."""
    return DisplayUnit(internal_unit(property_name), 1.0)


def error_unit(property_name: str) -> DisplayUnit:
    """The unit that a property's errors are shown in: meV where the internal unit counts in eV.

    Any other property keeps its internal unit: nobody says millielectrons of charges and dipoles.
    """
    unit = internal_unit(property_name)
    if unit.startswith("eV"):
        return DisplayUnit("m" + unit, 1000.0)
    return DisplayUnit(unit, 1.0)


def property_label(property_name: str) -> str:
    """A property's name as words: ``energy_per_atom`` becomes ``energy per atom``."""
    return property_name.replace("_", " ")


def number(value: float | None, *, digits: int = 3) -> str:
    """A number with ``digits`` significant digits; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        text = f"{mantissa}×10{_superscript(int(exponent))}"
    else:
        text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}".replace(
            ",", "\N{NARROW NO-BREAK SPACE}"
        )
    return (_MINUS if value < 0 else "") + text


def percent(value: float | None) -> str:
    """A fraction in percent."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f}{_SPACE}%" if abs(value) < 0.9995 else f"{100 * value:.0f}{_SPACE}%"


def count(value: object) -> str:
    """A whole number with narrow spaces between thousands; anything else as text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return "–" if value is None else str(value)
    return f"{value:,}".replace(",", _SPACE)


def large_count(value: int) -> str:
    """A count in words short enough for a headline: 123, 4.5 k, 1.2 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return number(value / (1e3 if letter == " k" else size)) + letter
    return count(value)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``42 s``, ``4 min 12 s``, ``3 h 05 min``."""
    if seconds < 10:
        return f"{number(seconds, digits=2)} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def as_float(value: object) -> float | None:
    """A number from JSON as float; None for anything else, booleans included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _superscript(value: int) -> str:
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
