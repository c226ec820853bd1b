"""The table of physical properties: one row each.

A property's level, shape, unit, parity and kind are read from here by readers, heads, losses, metrics and reports.
Adding a property of a known form is one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundation.config_problems import nearest
from foundation.errors import InputError

Level = Literal["graph", "atom", "edge", "pair"]
Kind = Literal["regression", "classification", "ranking"]
Form = Literal["scalar", "vector", "symmetric_matrix", "matrix"]

_FORM_SHAPE: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "vector": (3,),
    "symmetric_matrix": (3, 3),
    "matrix": (3, 3),
}


@dataclass(frozen=True)
class Property:
    """One physical property.

    Attributes:
        name: As users write it in cards and recipes.
        level: What carries it: the whole graph, an atom, an edge or a pair of graphs.
        form: How a value is stored: Cartesian scalar, vector or 3×3 matrix.
        irreps: What the Cartesian value contains, in e3nn's notation.
        unit: Internal unit of values.
        kind: How it is learnt and judged.
        extensive: Whether two separated systems add up.
        derived_from: The property whose derivative it is, or None.
        description: One line for reports and model cards.
    """

    name: str
    level: Level
    form: Form
    irreps: str
    unit: str
    kind: Kind
    extensive: bool
    derived_from: str | None
    description: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value: behind the graph or atom axis."""
        return _FORM_SHAPE[self.form]

    @property
    def parity(self) -> int:
        """Sign of the value's scalar part under inversion for scalars: +1 for true scalars, -1 for pseudoscalars."""
        return -1 if self.irreps == "0o" else 1

    @property
    def unit_label(self) -> str:
        """Unit as it stands in metric names: ``eV_per_A``."""
        label = self.unit.replace("Å", "A").replace("·", "").replace("²", "2").replace("³", "3")
        return label.replace("/", "_per_") if label != "1" else "1"


def _row(
    name: str,
    level: Level,
    form: Form,
    irreps: str,
    unit: str,
    description: str,
    *,
    kind: Kind = "regression",
    extensive: bool = False,
    derived_from: str | None = None,
) -> Property:
    return Property(name, level, form, irreps, unit, kind, extensive, derived_from, description)


_TENSOR = "0e+2e"

PROPERTIES: dict[str, Property] = {
    row.name: row
    for row in (
        _row("energy", "graph", "scalar", "0e", "eV", "total energy", extensive=True),
        _row("forces", "atom", "vector", "1o", "eV/Å", "negative energy gradient", derived_from="energy"),
        _row(
            "stress",
            "graph",
            "symmetric_matrix",
            _TENSOR,
            "eV/Å³",
            "(1/V) dE/dε, tension positive",
            derived_from="energy",
        ),
        _row("interaction_energy", "graph", "scalar", "0e", "eV", "energy minus that of the separated parts"),
        _row(
            "dipole", "graph", "vector", "1o", "e·Å", "dipole moment, about the centre of mass for ions", extensive=True
        ),
        _row(
            "polarizability",
            "graph",
            "symmetric_matrix",
            _TENSOR,
            "e²·Å²/eV",
            "static dipole polarizability",
            extensive=True,
        ),
        _row(
            "quadrupole",
            "graph",
            "symmetric_matrix",
            _TENSOR,
            "e·Å²",
            "second moment Σ q r r of the charge, about the centre of mass, with its trace",
            extensive=True,
        ),
        _row("partial_charges", "atom", "scalar", "0e", "e", "atomic charges"),
        _row(
            "missing_charge",
            "graph",
            "scalar",
            "0e",
            "e",
            "total charge less what atoms have of themselves, shared out over all of them",
        ),
        _row(
            "born_charges", "atom", "matrix", "0e+1e+2e", "e", "Born effective charges dP_a/dr_b", derived_from="dipole"
        ),
        _row("site_of_metabolism", "atom", "scalar", "0e", "1", "atom oxidised by an enzyme", kind="classification"),
        _row(
            "handedness",
            "graph",
            "scalar",
            "0o",
            "1",
            "R (+1) or S (-1) of the one stereocentre",
            kind="classification",
        ),
        _row("optical_rotation", "graph", "scalar", "0o", "deg", "specific or computed rotation at 589 nm"),
        _row("docking_score", "graph", "scalar", "0e", "eV", "docking score, lower binds better", kind="ranking"),
        _row("homo", "graph", "scalar", "0e", "eV", "highest occupied orbital energy"),
        _row("lumo", "graph", "scalar", "0e", "eV", "lowest unoccupied orbital energy"),
        _row("gap", "graph", "scalar", "0e", "eV", "orbital energy gap"),
        _row("dipole_magnitude", "graph", "scalar", "0e", "e·Å", "norm of the dipole moment"),
        _row(
            "isotropic_polarizability",
            "graph",
            "scalar",
            "0e",
            "e²·Å²/eV",
            "trace of the polarizability / 3",
            extensive=True,
        ),
        _row("electronic_spatial_extent", "graph", "scalar", "0e", "Å²", "expectation value of r²", extensive=True),
        _row("zero_point_energy", "graph", "scalar", "0e", "eV", "zero-point vibrational energy", extensive=True),
        _row("heat_capacity", "graph", "scalar", "0e", "eV/K", "heat capacity at 298.15 K", extensive=True),
        _row("position_noise", "atom", "vector", "1o", "Å", "displacement added by denoising, to be found again"),
        _row("masked_element", "atom", "scalar", "0e", "1", "element hidden by masking", kind="classification"),
    )
}


def get_property(name: str) -> Property:
    """Look a property up by name.

    Raises:
        InputError: No such property; the message names the known ones.
    """
    if name not in PROPERTIES:
        close = nearest(name, PROPERTIES)
        hint = f"; nearest: '{close}'" if close else ""
        raise InputError(f"unknown property '{name}'{hint}; known properties: {', '.join(sorted(PROPERTIES))}")
    return PROPERTIES[name]
