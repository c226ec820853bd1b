"""ASE databases and trajectories. ASE's own units are this project's: Å, eV, eV/Å, e·Å, eV/Å³."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.readers.record import RawFrame
from foundation.errors import InputError

__all__ = ["read_ase", "read_ase_frames"]


def read_ase(file: DataFile, dataset: ResolvedDataset) -> Iterator[RawFrame]:
    """Yield the structures of a .db or .traj file; see `read_ase_frames`."""
    yield from read_ase_frames(file, limit=dataset.limit)


def read_ase_frames(file: DataFile, *, limit: int | None) -> Iterator[RawFrame]:
    """Yield the first structures of a .db or .traj file; errors count database rows by their id, frames from 0.

    Calculated results, key-value pairs, `data` and further arrays are found under ASE's names; a stress in Voigt form
    is given as the 3×3 that ASE defines it to be.

    Raises:
        InputError: ASE cannot read the file.
    """
    rows = _database_rows(file.path) if file.path.suffix.lower() == ".db" else _trajectory_frames(file.path)
    for count, (where, atoms, values) in enumerate(rows):
        if limit is not None and count >= limit:
            return
        if "stress" in values and np.shape(values["stress"]) == (6,):
            values["stress"] = voigt_6_to_full_3x3_stress(np.asarray(values["stress"]))
        periodic = [bool(flag) for flag in atoms.pbc]
        yield RawFrame(
            positions=np.asarray(atoms.positions, dtype=np.float64),
            atomic_numbers=np.asarray(atoms.numbers, dtype=np.int64),
            cell=np.asarray(atoms.cell.array, dtype=np.float64) if any(periodic) else None,
            pbc=(periodic[0], periodic[1], periodic[2]),
            length_unit="Å",
            cell_unit="Å",
            values=values,
            available=tuple(values),
            split=file.split,
            where=where,
        )


def _database_rows(path: Path) -> Iterator[tuple[str, Atoms, dict[str, Any]]]:
    try:
        for row in ase.db.connect(str(path), type="db").select():
            atoms = row.toatoms()
            results = {} if atoms.calc is None else dict(atoms.calc.results)
            # Not row.key_value_pairs: there a stored `charge` or `mass` is replaced by what ASE computes itself.
            pairs = {key: vars(row)[key] for key in row.key_value_pairs}
            yield f"{path}: row {row.id}", atoms, {**results, **pairs, **dict(row.data)}
    except InputError:
        raise
    except Exception as error:  # ASE raises whatever sqlite3 and its decoders do
        raise InputError(f"{path}: ASE cannot read this database: {error}") from error


def _trajectory_frames(path: Path) -> Iterator[tuple[str, Atoms, dict[str, Any]]]:
    try:
        for index, atoms in enumerate(ase.io.iread(str(path), index=":", format="traj")):
            results = {} if atoms.calc is None else dict(atoms.calc.results)
            yield f"{path}: frame {index}", atoms, {**atoms.arrays, **results, **atoms.info}
    except InputError:
        raise
    except Exception as error:  # as above, of its binary format
        raise InputError(f"{path}: ASE cannot read this trajectory: {error}") from error
