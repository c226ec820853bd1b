"""What readers give: a frame as the file has it, and a record in internal units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from foundation.data.graph import AtomGraph, build_graph

__all__ = ["RawFrame", "Record"]


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """One structure as its file has it, nothing converted.

    Attributes:
        positions: In `length_unit`.
        atomic_numbers: Of the same atoms.
        cell: Rows are lattice vectors, in `cell_unit`; None for a free molecule.
        pbc: Which lattice directions repeat.
        length_unit: Unit of the positions.
        cell_unit: Unit of the cell.
        values: Everything else that the file states about this structure, under the file's own keys.
        available: Names of these keys for error messages.
        kept_atoms: Where atom arrays in `values` are padded: which of their rows are atoms of this structure.
        smiles: If the file gives one.
        formal_charge: Sum of formal charges of a SMILES or SDF record.
        radical_electrons: Of a SMILES or SDF record.
        implicit_hydrogens: Hydrogen atoms that an SDF record implies and that are not among the atoms.
        molecule: InChIKey block without stereo of a SMILES or SDF record.
        split: If the file gives one.
        where: File and frame (or row), counted as the message says.
    """

    positions: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    cell: Float[np.ndarray, "3 3"] | None
    pbc: tuple[bool, bool, bool]
    length_unit: str
    cell_unit: str
    values: Mapping[str, object]
    available: Sequence[str]
    kept_atoms: Bool[np.ndarray, " padded"] | None = None
    smiles: str | None = None
    formal_charge: int | None = None
    radical_electrons: int | None = None
    implicit_hydrogens: int = 0
    molecule: str | None = None
    split: str | None = None
    where: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One structure with its labels, in internal units (eV, Å, e).

    Attributes:
        positions: Å.
        atomic_numbers: Of the same atoms.
        cell: Rows are lattice vectors, Å; None for a free molecule.
        pbc: Which lattice directions repeat.
        total_charge: e.
        spin_multiplicity: 2S+1.
        targets: Property -> value; atom-level values hold NaN rows where an atom has no label. Absent: no label.
        group: What a split by group keeps together, "" if nothing.
        split: Split that the files give, if any.
        smiles: If known.
        where: File and frame, for errors.
    """

    positions: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    cell: Float[np.ndarray, "3 3"] | None
    pbc: tuple[bool, bool, bool]
    total_charge: float
    spin_multiplicity: int
    targets: dict[str, np.ndarray]
    group: str
    split: str | None
    smiles: str | None
    where: str

    def graph(self) -> AtomGraph:
        """Validate it and make a graph with its labels, without edges.

        Raises:
            InputError: Not a structure, or a label that does not fit it; see `foundation.data.graph.build_graph`.
        """
        return build_graph(
            positions=self.positions,
            atomic_numbers=self.atomic_numbers,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            cell=self.cell,
            pbc=self.pbc,
            targets=self.targets,
            where=self.where,
        )
