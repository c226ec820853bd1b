"""SD files: 3-D coordinates as they stand, hydrogens added where the file leaves them implicit.

Heavy atoms keep the file's order and come first among what is added, so lists of atoms stay right. Records with flat
(2-D) coordinates get a conformer instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rdkit import Chem

from foundation.data.card import ResolvedDataset
from foundation.data.conformers import embed_molecule
from foundation.data.files import DataFile
from foundation.data.readers.molecule import molecule_frame, molecule_key, quiet
from foundation.data.readers.open_file import open_binary
from foundation.data.readers.record import RawFrame
from foundation.data.readers.wanted import wanted_keys
from foundation.errors import InputError

__all__ = ["read_sdf"]


def read_sdf(file: DataFile, dataset: ResolvedDataset) -> Iterator[RawFrame]:
    """Yield the records of a file; errors count them from 1.

    Raises:
        InputError: A record cannot be parsed.
    """
    keys = wanted_keys(dataset)
    with open_binary(file.path) as stream:
        supplier = Chem.ForwardSDMolSupplier(stream, sanitize=True, removeHs=False)
        for number in range(1, 1 + (dataset.limit or 2**62)):
            where = f"{file.path}: record {number}"
            try:
                with quiet():
                    mol = next(supplier)
            except StopIteration:
                return
            if mol is None or mol.GetNumAtoms() == 0:
                raise InputError(f"{where}: RDKit cannot read this molecule (or its valences are impossible)")
            yield from _frames(mol, keys, dataset, split=file.split, where=where)


def _frames(
    mol: Chem.Mol, keys: tuple[str, ...], dataset: ResolvedDataset, *, split: str | None, where: str
) -> Iterator[RawFrame]:
    available = tuple(mol.GetPropNames(includePrivate=False))
    values = {key: _text(mol, key, where) for key in keys if mol.HasProp(key)}
    solid = mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()
    if dataset.hydrogens == "add" or not solid:
        mol = Chem.AddHs(mol, addCoords=solid)
    all_positions = [np.array(mol.GetConformer().GetPositions())] if solid else _embedded(mol, dataset, where)
    for positions in all_positions:
        yield molecule_frame(
            mol,
            positions=positions,
            molecule=molecule_key(mol),
            smiles=Chem.MolToSmiles(Chem.RemoveHs(mol)),
            values=values,
            available=available,
            split=split,
            where=where,
        )


def _text(mol: Chem.Mol, key: str, where: str) -> str:
    try:
        return mol.GetProp(key)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: field '{key}' is not UTF-8 text") from error


def _embedded(mol: Chem.Mol, dataset: ResolvedDataset, where: str) -> list[np.ndarray]:
    try:
        return embed_molecule(mol, dataset.conformers)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
