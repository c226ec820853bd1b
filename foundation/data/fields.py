"""How one label is written in a file: its key, its unit and its convention.

The unit travels with the label. What differs between programs (gradients instead of forces, virials instead of
stresses, transposed tensors) is named by a convention and undone in `foundation.data.readers.convert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from foundation.config import Config
from foundation.errors import InputError
from foundation.properties import PROPERTIES, get_property
from foundation.units import conversion_factor

__all__ = [
    "Convention",
    "KeyField",
    "LabelField",
    "LabelOverride",
    "NumberField",
    "PropertyName",
    "UnitField",
    "check_labels",
]

Convention = Literal["gradient", "virial", "compression_positive", "per_atom", "transposed"]
"""`gradient`: forces stored as dE/dr. `virial`: stress stored as -V·stress, an energy. `compression_positive`: stress
with the sign of a pressure. `per_atom`: an extensive value divided by the number of atoms. `transposed`: a 3×3 value
whose first index is the displacement (Born charges: dP_a/dr_b stored as [b, a])."""

_CONVENTION_FITS: dict[str, frozenset[str]] = {
    "gradient": frozenset({"forces"}),
    "virial": frozenset({"stress"}),
    "compression_positive": frozenset({"stress"}),
    "per_atom": frozenset(p.name for p in PROPERTIES.values() if p.extensive and p.level == "graph"),
    "transposed": frozenset(p.name for p in PROPERTIES.values() if p.form == "matrix"),
}
assert set(_CONVENTION_FITS) == set(get_args(Convention))

Component = Literal["xx", "yy", "zz", "yz", "xz", "xy", "zy", "zx", "yx"]


def _known_property(name: str) -> str:
    get_property(name)
    return name


PropertyName = Annotated[str, AfterValidator(_known_property)]


class KeyField(Config):
    """A value that a file states itself.

    Attributes:
        key: Its name in the file.
    """

    key: str = Field(min_length=1)


class NumberField(KeyField):
    """A charge or spin multiplicity that a file states, under `key`; units e and 1."""


class UnitField(KeyField):
    """An array of a file and its unit.

    Attributes:
        key: Its name in the file; `{part}` stands for a prefix where one file holds several splits.
        unit: Of the values in the file.
    """

    unit: str = Field(min_length=1)


class LabelOverride(Config):
    """What a recipe changes of a card's label; without a card `key` and unit have to be given.

    Attributes:
        key: Its name in the file: an info or array key, a column, an SD field.
        unit: Of the values in the file; may be left out only where the property has none.
        convention: How the file's definition differs from this project's, if it does.
        origin: What a dipole or quadrupole of a free structure is about; has to be stated where its value depends on it
            (dipoles of ions, quadrupoles). It is moved to the centre of mass.
        components: Order of a 3×3 symmetric value stored as six numbers, such as [xx, yy, zz, yz, xz, xy].
        classes: Text labels and the numbers that they mean, such as {R: 1, S: -1}.
        atom_list_from: The value lists the positive atoms, counted from this number.
        optional: Structures without the label are masked; otherwise they are an error.
        drop_above: Structures with a larger absolute component, in `unit`, are left out and counted.
    """

    key: str | None = Field(default=None, min_length=1)
    unit: str | None = None
    convention: Convention | None = None
    origin: Literal["centre_of_mass", "coordinates"] | None = None
    components: tuple[Component, ...] | None = None
    classes: dict[str, float] | None = None
    atom_list_from: Literal[0, 1] | None = None
    optional: bool = False
    drop_above: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check_components(self) -> LabelOverride:
        if self.components is not None:
            distinct = {"".join(sorted(component)) for component in self.components}
            if len(self.components) != 6 or len(distinct) != 6:
                raise InputError(f"components {list(self.components)}; allowed: xx, yy, zz, yz, xz, xy in some order")
        return self


class LabelField(LabelOverride):
    """A label of a file; attributes as in `LabelOverride`, `key` being given."""

    key: str = Field(min_length=1)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


def file_unit_factor(name: str, field: LabelField) -> float:
    """Give the number that turns the file's values of property `name` into internal units, conventions aside.

    Raises:
        InputError: The unit is missing, unknown, or measures something else.
    """
    internal = "eV" if field.convention == "virial" else get_property(name).unit
    if field.unit is None:
        if internal == "1":
            return 1.0
        raise InputError(f"'{name}' (key '{field.key}') states no unit; state it, for example unit: {internal}")
    return conversion_factor(field.unit, internal)


def check_labels(labels: Mapping[str, LabelField]) -> None:
    """Check that each label's unit and convention fit its property.

    Raises:
        InputError: All that does not fit.
    """
    problems = []
    for name, field in labels.items():
        prop = get_property(name)
        try:
            file_unit_factor(name, field)
        except InputError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
        if field.convention is not None and name not in _CONVENTION_FITS[field.convention]:
            fitting = sorted(convention for convention, names in _CONVENTION_FITS.items() if name in names)
            problems.append(f"{name}: convention '{field.convention}' does not apply; allowed: {fitting or 'none'}")
        if field.components is not None and prop.form != "symmetric_matrix":
            problems.append(f"{name}: components are for symmetric 3×3 values; this one is a {prop.form}")
        if field.atom_list_from is not None and (prop.level, prop.kind) != ("atom", "classification"):
            problems.append(f"{name}: a list of atoms can only label the atoms' class; allowed: no atom_list_from")
        if field.origin is not None and name not in ("dipole", "quadrupole"):
            problems.append(f"{name}: an origin is for dipoles and quadrupoles; allowed: no origin")
        if field.classes is not None and prop.kind != "classification":
            problems.append(f"{name}: classes are for classification; this property is a {prop.kind}")
    if problems:
        raise InputError(problems)
