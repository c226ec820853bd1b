"""CIF: one structure a block, expanded by its symmetry; labels are the block's own tags."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from ase.io.cif import parse_cif

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.readers.open_file import open_binary
from foundation.data.readers.record import RawFrame
from foundation.errors import InputError

__all__ = ["read_cif", "read_cif_frames"]

_OCCUPANCY = "_atom_site_occupancy"


def read_cif(file: DataFile, dataset: ResolvedDataset) -> Iterator[RawFrame]:
    """Yield the structures of a file."""
    yield from read_cif_frames(file, limit=dataset.limit)


def read_cif_frames(file: DataFile, *, limit: int | None) -> Iterator[RawFrame]:
    """Yield the first structures of a file.

    Raises:
        InputError: ASE cannot read it, or sites are partly occupied: there is no one structure then.
    """
    with open_binary(file.path) as stream:
        content = io.BytesIO(stream.read())
    try:
        blocks = list(parse_cif(content))
    except Exception as error:  # ASE's parser raises whatever its regular expressions run into
        raise InputError(f"{file.path}: not a CIF file: {error}") from error
    for block in blocks[:limit]:
        where = f"{file.path}: block '{block.name}'"
        occupancies = block.get(_OCCUPANCY)
        if occupancies is not None and (np.asarray(occupancies, dtype=float) < 1.0).any():
            raise InputError(f"{where}: sites are partly occupied; write out one ordered structure")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on settings and unknown crystal systems, that change no atom
                atoms = block.get_atoms()
        except Exception as error:
            raise InputError(f"{where}: ASE cannot make a structure of it: {error}") from error
        values = {key: value for key, value in block.items() if not key.startswith("_atom_site")}
        yield RawFrame(
            positions=np.asarray(atoms.positions, dtype=np.float64),
            atomic_numbers=np.asarray(atoms.numbers, dtype=np.int64),
            cell=np.asarray(atoms.cell.array, dtype=np.float64),
            pbc=(True, True, True),
            length_unit="Å",
            cell_unit="Å",
            values=values,
            available=tuple(values),
            split=file.split,
            where=where,
        )
