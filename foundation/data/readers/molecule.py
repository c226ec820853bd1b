"""What a molecular graph says besides atoms and bonds: charge, radicals, one key for all its stereoisomers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors

from foundation.data.conformers import flat_inchikey
from foundation.data.readers.record import RawFrame

__all__ = ["molecule_frame", "molecule_key", "quiet"]

quiet = rdBase.BlockLogs
"""Context in which RDKit does not print what is raised anyway."""


def molecule_frame(
    mol: Chem.Mol,
    *,
    positions: np.ndarray,
    molecule: str,
    smiles: str,
    values: Mapping[str, object],
    available: Sequence[str],
    split: str | None,
    where: str,
) -> RawFrame:
    """Make a frame of a molecule with positions in Å and all atoms explicit that are to be in the structure.

    Args:
        mol: The molecule; its atoms in the order of the positions.
        positions: `[atoms, 3]`, Å.
        molecule: From `flat_inchikey`.
        smiles: As the file gives it or RDKit writes it.
        values: What the file states beside the structure.
        available: Its keys.
        split: That the file gives.
        where: File and record.
    """
    return RawFrame(
        positions=np.asarray(positions, dtype=np.float64),
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
        cell=None,
        pbc=(False, False, False),
        length_unit="Å",
        cell_unit="Å",
        values=values,
        available=available,
        smiles=smiles,
        formal_charge=Chem.GetFormalCharge(mol),
        radical_electrons=Descriptors.NumRadicalElectrons(mol),
        implicit_hydrogens=sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()),
        molecule=molecule,
        split=split,
        where=where,
    )


def molecule_key(mol: Chem.Mol) -> str:
    """`flat_inchikey` without its remarks on stereo."""
    with quiet():
        return flat_inchikey(mol)
