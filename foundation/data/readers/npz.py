"""NumPy archives: rMD17-like (one composition, splits by prefix), padded, or one crystal a file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping

import numpy as np

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.layout import ArraysConfig
from foundation.data.readers.open_file import open_binary
from foundation.data.readers.record import RawFrame
from foundation.data.readers.wanted import Wanted, everything, wanted_keys
from foundation.errors import InputError

__all__ = ["read_npz"]


def read_npz(file: DataFile, dataset: ResolvedDataset, *, wanted: Wanted = everything) -> Iterator[RawFrame | None]:
    """Yield the frames of an archive, part by part, None for those that are not wanted; pickled arrays are refused.

    Raises:
        InputError: The layout is not stated, an array is missing or has the wrong shape.
    """
    if dataset.arrays is None:
        raise InputError(
            f"{file.path}: npz files have no fixed layout; state arrays: {{positions: {{key: …, unit: …}}, "
            "atomic_numbers: {key: …}}"
        )
    archive = _load(file)
    parts: Mapping[str | None, str] = {file.split: ""}
    if dataset.arrays.parts is not None:
        parts = {**dataset.arrays.parts}
    first = 0
    for split, prefix in parts.items():
        frames = _read_part(
            file, dataset, dataset.arrays, archive, split=split, prefix=prefix, wanted=lambda n, f=first: wanted(f + n)
        )
        for frame in frames:
            yield frame
            first += 1


def _load(file: DataFile) -> dict[str, np.ndarray]:
    try:
        with open_binary(file.path) as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file.path}: not an npz archive of plain arrays: {error}") from error


def _read_part(
    file: DataFile,
    dataset: ResolvedDataset,
    arrays: ArraysConfig,
    archive: Mapping[str, np.ndarray],
    *,
    split: str | None,
    prefix: str,
    wanted: Wanted,
) -> Iterator[RawFrame | None]:
    def array(key: str, what: str) -> np.ndarray:
        name = key.replace("{part}", prefix)
        if name not in archive:
            raise InputError(f"{file.path}: {what}: no key '{name}'; keys that are there: {', '.join(sorted(archive))}")
        return archive[name]

    positions = np.asarray(array(arrays.positions.key, "positions"), dtype=np.float64)
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise InputError(f"{file.path}: positions have shape {positions.shape}; allowed: (frames, atoms, 3)")
    numbers = np.asarray(array(arrays.atomic_numbers.key, "atomic_numbers"), dtype=np.int64)
    if numbers.shape not in (positions.shape[:2], positions.shape[1:2]):
        raise InputError(
            f"{file.path}: atomic numbers have shape {numbers.shape}; "
            f"allowed: {positions.shape[1:2]} or {positions.shape[:2]}"
        )
    cells = None if arrays.cell is None else np.asarray(array(arrays.cell.key, "cell"), dtype=np.float64)
    found = {key: key.replace("{part}", prefix) for key in wanted_keys(dataset)}
    columns = {key: archive[name] for key, name in found.items() if name in archive}
    for key, column in columns.items():
        if column.ndim == 0 or len(column) != len(positions):
            raise InputError(
                f"{file.path}: '{found[key]}' has shape {column.shape}; allowed: {len(positions)} frames first"
            )
    count = len(positions) if dataset.limit is None else min(dataset.limit, len(positions))
    for index in range(count):
        if not wanted(index):
            yield None
            continue
        row = numbers if numbers.ndim == 1 else numbers[index]
        kept = row > 0
        cell = None if cells is None else cells if cells.ndim == 2 else cells[index]
        yield RawFrame(
            positions=positions[index][kept],
            atomic_numbers=row[kept],
            cell=cell,
            pbc=(True, True, True) if cell is not None else (False, False, False),
            length_unit=arrays.positions.unit,
            cell_unit="Å" if arrays.cell is None else arrays.cell.unit,
            values={key: column[index] for key, column in columns.items()},
            available=tuple(archive),
            kept_atoms=kept,
            split=split,
            where=f"{file.path}: frame {index}" if not prefix else f"{file.path}: frame {index} of {split}",
        )
