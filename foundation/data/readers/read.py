"""Read a data set: every file through its format's reader, every frame through the one converter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.readers.ase_files import read_ase
from foundation.data.readers.cif import read_cif
from foundation.data.readers.convert import Converter
from foundation.data.readers.extxyz import read_extxyz, read_extxyz_frames
from foundation.data.readers.npz import read_npz
from foundation.data.readers.open_file import check_content
from foundation.data.readers.parquet import read_parquet
from foundation.data.readers.record import RawFrame, Record
from foundation.data.readers.sdf import read_sdf
from foundation.data.readers.smiles import RowFrame, read_smiles
from foundation.data.readers.wanted import Wanted, everything
from foundation.errors import InputError
from foundation.threads import available_cores
from foundation.units import conversion_factor

__all__ = ["read_file", "read_isolated_atoms", "read_records"]

_LOGGER = logging.getLogger(__name__)

_READERS: dict[str, Callable[[DataFile, ResolvedDataset], Iterator[RawFrame]]] = {
    "ase": read_ase,
    "cif": read_cif,
    "sdf": read_sdf,
}
_SKIPPING_READERS = {"extxyz": read_extxyz, "npz": read_npz}
"""Those that pass over frames that are not wanted without reading them."""
_ROW_READERS = {"smiles": read_smiles, "parquet": read_parquet}
"""Those that may give several structures a row, or none."""


def read_records(dataset: ResolvedDataset, *, workers: int | None = None) -> Iterator[Record]:
    """Yield the records of a data set in the order of its files.

    Args:
        dataset: Resolved by `foundation.data.card.resolve`.
        workers: Threads that make conformers, all cores if None; their number changes nothing in the result.

    Raises:
        InputError: A file is broken, is not the one that the card was written for, or a label is missing; no record.
    """
    for file in dataset.files:
        check_content(file)
    converter = Converter(dataset)
    count = dropped = 0
    for file in dataset.files:
        for _, frame in _frames(file, dataset, everything, workers or available_cores()):
            if frame is None:
                continue
            record = converter.convert(frame)
            if record is None:
                dropped += 1
                continue
            count += 1
            yield record
    if dropped:
        _LOGGER.warning(
            "data '%s': %d of %d structures left out: a label exceeds drop_above",
            dataset.name,
            dropped,
            count + dropped,
        )
    if count == 0:
        raise InputError(
            f"data '{dataset.name}': {', '.join(str(file.path) for file in dataset.files)} hold no structure"
        )


def read_file(
    file: DataFile, dataset: ResolvedDataset, *, converter: Converter, wanted: Wanted, workers: int
) -> Iterator[tuple[int, Record | None]]:
    """Yield the records of one file, each with the number of the frame or row that it comes from.

    Every number comes at least once: with None where the frame is not wanted, or gives no record.

    Args:
        file: One of the data set's.
        dataset: Says how it is read.
        converter: Of this data set.
        wanted: Frames to read; the others are passed over as fast as the format allows.
        workers: Threads that make conformers.

    Raises:
        InputError: The file is broken or a label is missing.
    """
    for number, frame in _frames(file, dataset, wanted, workers):
        yield number, None if frame is None or not wanted(number) else converter.convert(frame)


def _frames(file: DataFile, dataset: ResolvedDataset, wanted: Wanted, workers: int) -> Iterator[RowFrame]:
    if file.format in _ROW_READERS:
        return _ROW_READERS[file.format](file, dataset, workers=workers, wanted=wanted)
    if file.format in _SKIPPING_READERS:
        return enumerate(_SKIPPING_READERS[file.format](file, dataset, wanted=wanted))
    return enumerate(_READERS[file.format](file, dataset))


def read_isolated_atoms(dataset: ResolvedDataset) -> dict[int, float]:
    """Give the energies of isolated atoms that the data set states.

    Returns:
        Atomic number -> energy, eV; empty if it states none.

    Raises:
        InputError: The file is broken, lacks the key, or holds structures of several atoms.
    """
    config = dataset.isolated_atoms
    if config is None:
        return {}
    factor = conversion_factor(config.unit, "eV")
    if config.values is not None:
        return {number_of_symbol[symbol]: value * factor for symbol, value in config.values.items()}
    assert dataset.isolated_atoms_file is not None
    assert config.key is not None
    file = DataFile(path=dataset.isolated_atoms_file, format="extxyz", split=None, sha256=None)
    energies: dict[int, float] = {}
    for frame in read_extxyz_frames(file, limit=None):
        if len(frame.atomic_numbers) != 1:
            raise InputError(f"{frame.where}: {len(frame.atomic_numbers)} atoms; allowed: one isolated atom")
        number = int(frame.atomic_numbers[0])
        value = frame.values.get(config.key)
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(
                f"{frame.where}: isolated_atoms: key '{config.key}' is {value!r}; keys that are there: "
                f"{', '.join(frame.available)}"
            )
        if number in energies:
            raise InputError(f"{frame.where}: a second isolated atom of element {number}")
        energies[number] = float(value) * factor
    return energies
