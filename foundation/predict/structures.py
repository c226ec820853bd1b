"""What a prediction is made for: ASE atoms, RDKit molecules and SMILES, turned into structures with charge and spin.

Charge and spin are never assumed: they come from the caller, from the file's own keys, or from the molecule's formal
charge and unpaired electrons. What the caller states may not contradict the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float, Int
from rdkit import Chem
from rdkit.Chem import Descriptors

from foundation.data.conformers import ConformerConfig, embed_molecule
from foundation.data.electrons import check_electrons
from foundation.data.graph import AtomGraph, build_graph
from foundation.data.readers.molecule import quiet
from foundation.data.readers.record import RawFrame
from foundation.errors import InputError

CHARGE_KEYS = ("total_charge", "charge")
SPIN_KEYS = ("spin_multiplicity", "multiplicity", "spin")
"""Keys of `atoms.info`, of extxyz comment lines and of ASE databases; spin is the multiplicity 2S+1 under all of
them."""
_CONFORMER = ConformerConfig(count=1, seed=0)
"""As in training on SMILES, so that a molecule of the training data gets its geometry again."""


@dataclass(frozen=True)
class Structure:
    """One structure to predict for.

    Attributes:
        positions: Å.
        atomic_numbers: One an atom; hydrogen atoms added to a molecule come last.
        cell: Rows are lattice vectors, Å; None for a free molecule.
        pbc: Which lattice directions repeat.
        total_charge: e.
        spin_multiplicity: 2S+1.
        name: As the file gives it, or its number there.
        smiles: Of the molecule as it was given, if its bonds are known.
        molecule: With all hydrogen atoms and this geometry, if its bonds are known.
        notes: What was done to it before predicting.
        where: What to call it in errors.
        external_field: `[3]`, uniform, V/Å; None for none.

    Raises:
        InputError: No number of electrons has this charge and multiplicity.
    """

    positions: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    cell: Float[np.ndarray, "3 3"] | None
    pbc: Bool[np.ndarray, " 3"]
    total_charge: float
    spin_multiplicity: int
    name: str
    smiles: str | None
    molecule: Chem.Mol | None
    notes: tuple[str, ...]
    where: str
    external_field: Float[np.ndarray, " 3"] | None = None

    def __post_init__(self) -> None:
        """Check charge and spin, whether they were stated or told by the bonds."""
        check_electrons(
            self.atomic_numbers,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            periodic=bool(self.pbc.any()),
            where=self.where,
        )

    def graph(self, *, level_index: int) -> AtomGraph:
        """Validate it and make a graph without edges.

        Raises:
            InputError: Not a structure: atoms on top of each other, numbers that are not finite, a cell without volume.
        """
        return build_graph(
            positions=self.positions,
            atomic_numbers=self.atomic_numbers,
            total_charge=self.total_charge,
            spin_multiplicity=self.spin_multiplicity,
            cell=self.cell,
            pbc=self.pbc,
            level_index=level_index,
            external_field=self.external_field,
            where=self.where,
        )


def stated(
    info: Mapping[str, Any], keys: tuple[str, ...], *, argument: int | float | None, what: str, where: str
) -> float | None:
    """Find a number that the caller states, or that stands under one of `keys`; None if nowhere.

    Raises:
        InputError: Two of them differ, or one is not a number.
    """
    found: dict[str, float] = {} if argument is None else {"stated by the caller": float(argument)}
    for key in keys:
        if key in info:
            if isinstance(info[key], bool):
                raise InputError(f"{where}: key '{key}' has no number behind it; write {key}=…, the {what}")
            try:
                found[f"key '{key}'"] = float(info[key])
            except (TypeError, ValueError) as error:
                raise InputError(f"{where}: key '{key}': got {info[key]!r}; allowed: one number, the {what}") from error
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{value:g} ({source})" for source, value in found.items())
        raise InputError(f"{where}: the {what} is contradictory: {listed}")
    return next(iter(found.values()), None)


def charge_and_spin(
    info: Mapping[str, Any], *, charge: int | float | None, spin: int | None, where: str
) -> tuple[float, int]:
    """Find total charge (e) and spin multiplicity of bare atoms.

    Raises:
        InputError: One of them is stated nowhere, or contradictorily.
    """
    found_charge = stated(info, CHARGE_KEYS, argument=charge, what="total charge", where=where)
    found_spin = stated(info, SPIN_KEYS, argument=spin, what="spin multiplicity", where=where)
    problems = []
    if found_charge is None:
        problems.append(
            f"{where}: the total charge is not stated; give `charge` (`--charge` on the command line) or the key "
            f"'{CHARGE_KEYS[0]}' in the file or in atoms.info"
        )
    if found_spin is None:
        problems.append(
            f"{where}: the spin multiplicity 2S+1 is not stated; give `spin` (`--spin` on the command line) or the key "
            f"'{SPIN_KEYS[0]}' in the file or in atoms.info"
        )
    elif found_spin < 1 or found_spin != int(found_spin):
        problems.append(f"{where}: spin multiplicity: got {found_spin:g}; allowed: 2S+1 = 1, 2, 3, …")
    if problems:
        raise InputError(problems)
    assert found_charge is not None
    assert found_spin is not None
    return found_charge, int(found_spin)


def from_frame(frame: RawFrame, *, name: str, charge: int | float | None = None, spin: int | None = None) -> Structure:
    """Take what a reader found in a file; charge and spin from the arguments or from the file's own keys.

    Raises:
        InputError: Charge or spin is stated nowhere or contradictorily.
    """
    assert (frame.length_unit, frame.cell_unit) == ("Å", "Å"), "the formats that are predicted for are in Å"
    total_charge, multiplicity = charge_and_spin(frame.values, charge=charge, spin=spin, where=frame.where)
    return Structure(
        positions=frame.positions,
        atomic_numbers=frame.atomic_numbers,
        cell=frame.cell if any(frame.pbc) else None,
        pbc=np.array(frame.pbc, dtype=bool),
        total_charge=total_charge,
        spin_multiplicity=multiplicity,
        name=name,
        smiles=None,
        molecule=None,
        notes=(),
        where=frame.where,
    )


def from_atoms(
    atoms: Atoms,
    *,
    name: str,
    where: str,
    charge: int | float | None = None,
    spin: int | None = None,
    external_field: Float[np.ndarray, " 3"] | None = None,
) -> Structure:
    """Take ASE atoms; charge and spin from the arguments or from `atoms.info`, a field (V/Å) from the argument alone.

    Raises:
        InputError: Charge or spin is stated nowhere or contradictorily.
    """
    total_charge, multiplicity = charge_and_spin(atoms.info, charge=charge, spin=spin, where=where)
    return Structure(
        positions=np.array(atoms.get_positions(), dtype=np.float64),
        atomic_numbers=np.array(atoms.get_atomic_numbers(), dtype=np.int64),
        cell=np.array(atoms.cell.array, dtype=np.float64) if atoms.pbc.any() else None,
        pbc=np.array(atoms.pbc, dtype=bool),
        total_charge=total_charge,
        spin_multiplicity=multiplicity,
        name=name,
        smiles=None,
        molecule=None,
        notes=(),
        where=where,
        external_field=external_field,
    )


def from_smiles(
    smiles: str, *, name: str, where: str, charge: int | float | None = None, spin: int | None = None
) -> Structure:
    """Read SMILES and embed one conformer.

    Raises:
        InputError: It cannot be parsed or embedded, or charge or spin contradict it.
    """
    with quiet():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InputError(f"{where}: SMILES '{smiles}' cannot be parsed")
    return from_molecule(molecule, name=name, where=where, charge=charge, spin=spin)


def from_molecule(
    molecule: Chem.Mol, *, name: str, where: str, charge: int | float | None = None, spin: int | None = None
) -> Structure:
    """Take an RDKit molecule: its first conformer if that is three-dimensional, else an embedded one.

    Raises:
        InputError: It has no atoms or cannot be embedded, its spin cannot be told, or charge or spin contradict it.
    """
    if molecule.GetNumAtoms() == 0:
        raise InputError(f"{where}: the molecule has no atoms")
    total_charge = stated(
        {"formal charge": Chem.GetFormalCharge(molecule)},
        ("formal charge",),
        argument=charge,
        what="total charge",
        where=where,
    )
    assert total_charge is not None
    smiles = Chem.MolToSmiles(Chem.RemoveHs(molecule))
    with quiet():
        complete, notes = _with_geometry(molecule, where=where)
    return Structure(
        positions=np.array(complete.GetConformer().GetPositions(), dtype=np.float64),
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in complete.GetAtoms()], dtype=np.int64),
        cell=None,
        pbc=np.zeros(3, dtype=bool),
        total_charge=total_charge,
        spin_multiplicity=_multiplicity(molecule, spin=spin, where=where),
        name=name,
        smiles=smiles,
        molecule=complete,
        notes=notes,
        where=where,
    )


def _multiplicity(molecule: Chem.Mol, *, spin: int | None, where: str) -> int:
    """2S+1 of a molecule: as stated, else from its unpaired electrons if there is none or one."""
    unpaired = Descriptors.NumRadicalElectrons(molecule)
    if spin is None:
        if unpaired > 1:
            raise InputError(
                f"{where}: {unpaired} unpaired electrons leave the spin multiplicity open; state it (`spin`, `--spin`)"
            )
        return unpaired + 1
    if spin < 1:
        raise InputError(f"{where}: spin multiplicity: got {spin}; allowed: 2S+1 = 1, 2, 3, …")
    return spin


def _with_geometry(molecule: Chem.Mol, *, where: str) -> tuple[Chem.Mol, tuple[str, ...]]:
    """Add missing hydrogen atoms and, if there is none, a geometry."""
    given = molecule.GetNumConformers() > 0 and molecule.GetConformer().Is3D()
    complete = Chem.AddHs(molecule, addCoords=given)
    added = complete.GetNumAtoms() - molecule.GetNumAtoms()
    if given:
        return complete, ((f"{added} hydrogen atoms added to the given geometry",) if added else ())
    notes = [f"geometry embedded with ETKDGv3, seed {_CONFORMER.seed}"]
    centres = Chem.FindMolChiralCenters(molecule, includeUnassigned=True, useLegacyImplementation=False)
    unassigned = sum(label == "?" for _, label in centres)
    if unassigned:
        notes.append(f"{unassigned} stereocentres were open; the embedding drew them")
    try:
        positions = embed_molecule(complete, _CONFORMER)[0]
    except InputError as error:
        raise InputError(f"{where}: '{Chem.MolToSmiles(molecule)}': {error}; give a geometry (SDF)") from error
    conformer = Chem.Conformer(complete.GetNumAtoms())
    conformer.SetPositions(positions)
    complete.RemoveAllConformers()
    complete.AddConformer(conformer, assignId=True)
    return complete, tuple(notes)
