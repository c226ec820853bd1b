"""Internal units and conversion to them.

Internal units are eV, Å, e, amu, fs and K. Files are converted to them by the readers and nowhere else.

Source of constants: CODATA 2018 (Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021)).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from foundation.errors import InputError

HARTREE_IN_EV = 27.211386245988
BOHR_IN_ANGSTROM = 0.529177210903
JOULE_IN_EV = 1.0 / 1.602176634e-19
AVOGADRO = 6.02214076e23
DEBYE_IN_E_ANGSTROM = 0.20819433270935
KCAL_PER_MOL_IN_EV = 4184.0 * JOULE_IN_EV / AVOGADRO
GPA_IN_EV_PER_A3 = 1.0 / 160.21766339999996
COULOMB_CONSTANT = HARTREE_IN_EV * BOHR_IN_ANGSTROM
"""e²/(4πε₀) in eV·Å: the energy of two unit charges one ångström apart."""
BOLTZMANN_IN_EV_PER_K = 8.617333262e-5
AMU_A2_PER_FS2_IN_EV = 103.64269652680505
"""1 amu·Å²/fs² in eV."""

Dimension = tuple[Fraction, ...]
_BASE = ("energy", "length", "charge", "mass", "time", "temperature", "angle")


def _dimension(**powers: int) -> Dimension:
    return tuple(Fraction(powers.get(name, 0)) for name in _BASE)


@dataclass(frozen=True)
class Unit:
    """A unit: its size in internal units and its dimension."""

    factor: float
    dimension: Dimension


_ENERGY = _dimension(energy=1)
_LENGTH = _dimension(length=1)
_PRESSURE = _dimension(energy=1, length=-3)
_NONE = _dimension()

UNITS: dict[str, Unit] = {
    "1": Unit(1.0, _NONE),
    "eV": Unit(1.0, _ENERGY),
    "meV": Unit(1e-3, _ENERGY),
    "Ha": Unit(HARTREE_IN_EV, _ENERGY),
    "Hartree": Unit(HARTREE_IN_EV, _ENERGY),
    "mHa": Unit(1e-3 * HARTREE_IN_EV, _ENERGY),
    "Ry": Unit(0.5 * HARTREE_IN_EV, _ENERGY),
    "J": Unit(JOULE_IN_EV, _ENERGY),
    "kJ": Unit(1e3 * JOULE_IN_EV, _ENERGY),
    "cal": Unit(4.184 * JOULE_IN_EV, _ENERGY),
    "kcal": Unit(4184.0 * JOULE_IN_EV, _ENERGY),
    "mol": Unit(AVOGADRO, _NONE),
    "atom": Unit(1.0, _NONE),
    "Å": Unit(1.0, _LENGTH),
    "A": Unit(1.0, _LENGTH),
    "Angstrom": Unit(1.0, _LENGTH),
    "bohr": Unit(BOHR_IN_ANGSTROM, _LENGTH),
    "Bohr": Unit(BOHR_IN_ANGSTROM, _LENGTH),
    "nm": Unit(10.0, _LENGTH),
    "m": Unit(1e10, _LENGTH),
    "cm": Unit(1e8, _LENGTH),
    "e": Unit(1.0, _dimension(charge=1)),
    "D": Unit(DEBYE_IN_E_ANGSTROM, _dimension(charge=1, length=1)),
    "Debye": Unit(DEBYE_IN_E_ANGSTROM, _dimension(charge=1, length=1)),
    "mD": Unit(1e-3 * DEBYE_IN_E_ANGSTROM, _dimension(charge=1, length=1)),
    "GPa": Unit(GPA_IN_EV_PER_A3, _PRESSURE),
    "kbar": Unit(0.1 * GPA_IN_EV_PER_A3, _PRESSURE),
    "kB": Unit(0.1 * GPA_IN_EV_PER_A3, _PRESSURE),
    "bar": Unit(1e-4 * GPA_IN_EV_PER_A3, _PRESSURE),
    "Pa": Unit(1e-9 * GPA_IN_EV_PER_A3, _PRESSURE),
    "amu": Unit(1.0, _dimension(mass=1)),
    "fs": Unit(1.0, _dimension(time=1)),
    "ps": Unit(1e3, _dimension(time=1)),
    "s": Unit(1e15, _dimension(time=1)),
    "K": Unit(1.0, _dimension(temperature=1)),
    "deg": Unit(1.0, _dimension(angle=1)),
}

_MOLAR = ("cal", "kcal", "kJ")
"""Energies that chemistry counts per mole: of one structure they would be 10²³ times too large."""
_TERM = re.compile(r"^([A-Za-zÅ1]+)(?:\^?(-?\d+))?$")
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "⁴": "^4"})


def parse_unit(text: str) -> Unit:
    """Parse a product of powers such as ``kcal/mol/Å``, ``e*bohr``, ``eV/Å^3`` or ``e²·Å²/eV``.

    Args:
        text: Factors separated by ``*``, ``·`` or ``/``; ``^n`` or a superscript raises one factor. Every ``/`` divides
            by the one factor that follows it.

    Returns:
        The unit in internal units.

    Raises:
        InputError: A factor is not a known unit, or an energy such as kcal is not divided by mol.
    """
    factor = 1.0
    powers: dict[str, int] = {}
    dimension = list(_NONE)
    cleaned = text.translate(_SUPERSCRIPTS).replace("·", "*").replace("**", "^").replace(" ", "")
    for operator, term in re.findall(r"(^|[*/])([^*/]*)", cleaned):
        match = _TERM.match(term)
        name = None if match is None else match.group(1)
        if match is None or name not in UNITS:
            raise InputError(f"unit '{text}': unknown factor '{term}'; known units: {', '.join(sorted(UNITS))}")
        power = int(match.group(2) or 1) * (-1 if operator == "/" else 1)
        unit = UNITS[name]
        powers[name] = powers.get(name, 0) + power
        factor *= unit.factor**power
        dimension = [total + power * part for total, part in zip(dimension, unit.dimension, strict=True)]
    molar = [name for name in _MOLAR if name in powers]
    if molar and powers.get("mol", 0) != -sum(powers[name] for name in molar):
        close = re.sub(rf"\b({'|'.join(molar)})\b", r"\1/mol", re.sub(r"[/*·]\s*mol\b", "", text))
        raise InputError(f"unit '{text}': {molar[0]} stands without /mol; nearest: '{close}'")
    return Unit(factor, tuple(dimension))


@functools.cache
def conversion_factor(unit: str, internal_unit: str) -> float:
    """Give the number that turns a value in ``unit`` into ``internal_unit``.

    Raises:
        InputError: One of them is unknown, or their dimensions differ.
    """
    source, target = parse_unit(unit), parse_unit(internal_unit)
    if source.dimension != target.dimension:
        raise InputError(f"unit '{unit}' does not measure the same thing as '{internal_unit}'")
    return source.factor / target.factor
