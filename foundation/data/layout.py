"""How structures stand in a file: arrays, groups, isolated atoms; and where a file can be had."""

from __future__ import annotations

from typing import Literal

from ase.data import atomic_numbers
from pydantic import Field, model_validator

from foundation.config import Config
from foundation.data.fields import KeyField, UnitField
from foundation.errors import InputError
from foundation.units import conversion_factor

__all__ = ["ArraysConfig", "Download", "GroupConfig", "IsolatedAtomsConfig"]


class ArraysConfig(Config):
    """Where the structure itself stands in a file that has no fixed layout (npz, parquet).

    Attributes:
        positions: `[frames, atoms, 3]`, or a list a row in parquet.
        atomic_numbers: `[atoms]` or `[frames, atoms]`; 0 marks padding.
        cell: `[3, 3]` or `[frames, 3, 3]`, rows are lattice vectors; without it structures are free molecules.
        parts: Given split -> what replaces `{part}` in keys, where one file holds several splits.
    """

    positions: UnitField
    atomic_numbers: KeyField
    cell: UnitField | None = None
    parts: dict[Literal["train", "val", "test"], str] | None = None


class GroupConfig(Config):
    """What must stay on one side of a split.

    Attributes:
        by: `key`: the value under `key`; `molecule`: InChIKey without stereo of the SMILES or SDF record; `geometry`:
            equal positions and elements, whatever the charge; `composition`; `file`: the file that it came from. Left
            out, smiles and sdf are grouped by molecule, the other formats not at all.
        key: Only for by: key.
    """

    by: Literal["key", "molecule", "geometry", "composition", "file"]
    key: str | None = None

    @model_validator(mode="after")
    def _check(self) -> GroupConfig:
        if (self.by == "key") != (self.key is not None):
            raise InputError("group: key is given with by: key, and only then")
        return self


class IsolatedAtomsConfig(Config):
    """Energies of isolated atoms at the data set's level of theory: from a file of one-atom structures, or listed.

    Attributes:
        source: Extended XYZ file, one atom a frame; found like the card's own source.
        key: Of the energy in that file.
        values: Element symbol -> energy, instead of a file.
        unit: Of the energies.
    """

    source: str | None = None
    key: str | None = None
    values: dict[str, float] | None = None
    unit: str

    @model_validator(mode="after")
    def _check(self) -> IsolatedAtomsConfig:
        if (self.values is None) == (self.source is None) or (self.source is None) != (self.key is None):
            raise InputError("isolated_atoms: give either source and key, or values (element: energy)")
        conversion_factor(self.unit, "eV")
        unknown = sorted(symbol for symbol in self.values or {} if symbol not in atomic_numbers)
        if unknown:
            raise InputError(f"isolated_atoms: unknown elements {unknown}")
        return self


class Download(Config):
    """Where a file can be had.

    Attributes:
        url: Public address.
        file: Name that it gets in the data folder, if it is used as it is.
        sha256: Of what the address serves, if known.
        note: What was done to it, if it is not used as it is.
    """

    url: str
    file: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    note: str | None = None
