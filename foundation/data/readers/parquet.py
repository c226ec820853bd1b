"""Parquet tables: one structure a row, as lists of numbers or as SMILES."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow.parquet import ParquetFile

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.layout import ArraysConfig
from foundation.data.readers.record import RawFrame
from foundation.data.readers.smiles import Row, RowFrame, frames_of_rows
from foundation.data.readers.wanted import Wanted, everything, wanted_keys
from foundation.errors import InputError

__all__ = ["read_parquet"]

_ROWS_AT_ONCE = 1024


def read_parquet(
    file: DataFile, dataset: ResolvedDataset, *, workers: int, wanted: Wanted = everything
) -> Iterator[RowFrame]:
    """Yield the structures of a table, each with its row; rows that are not wanted come with None.

    Errors count rows from 0.

    Raises:
        InputError: The layout is not stated, a column is missing, or a value has the wrong shape.
    """
    if dataset.arrays is not None:
        yield from _array_rows(file, dataset, dataset.arrays, wanted)
    elif dataset.smiles_key is not None:
        rows = _rows(file.path, wanted_keys(dataset), wanted)
        yield from frames_of_rows(
            rows, dataset, smiles_key=dataset.smiles_key, split=file.split, workers=workers, wanted=wanted
        )
    else:
        raise InputError(
            f"{file.path}: parquet tables have no fixed layout; state smiles_key, or arrays: {{positions: {{key: …, "
            "unit: …}, atomic_numbers: {key: …}}"
        )


def _rows(path: Path, keys: tuple[str, ...], wanted: Wanted) -> Iterator[Row]:
    """Rows of a table; those that are not wanted are empty."""
    try:
        with ParquetFile(path) as table:
            names = table.schema_arrow.names
            index = 0
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[key for key in keys if key in names]):
                some = any(wanted(index + place) for place in range(batch.num_rows))
                for values in batch.to_pylist() if some else [{}] * batch.num_rows:
                    yield f"{path}: row {index}", {key: value for key, value in values.items() if value is not None}
                    index += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a parquet table: {error}") from error


def _array_rows(file: DataFile, dataset: ResolvedDataset, arrays: ArraysConfig, wanted: Wanted) -> Iterator[RowFrame]:
    structure = [arrays.positions.key, arrays.atomic_numbers.key]
    structure += [] if arrays.cell is None else [arrays.cell.key]
    for count, (where, values) in enumerate(_rows(file.path, (*structure, *wanted_keys(dataset)), wanted)):
        if dataset.limit is not None and count >= dataset.limit:
            return
        if not wanted(count):
            yield count, None
            continue
        missing = [key for key in structure if key not in values]
        if missing:
            raise InputError(f"{where}: no value '{missing[0]}'; values that are there: {', '.join(values)}")
        cell = None if arrays.cell is None else _matrix(values[arrays.cell.key], where, arrays.cell.key)
        frame = RawFrame(
            positions=_matrix(values[arrays.positions.key], where, arrays.positions.key),
            atomic_numbers=np.asarray(values[arrays.atomic_numbers.key], dtype=np.int64).reshape(-1),
            cell=cell,
            pbc=(True, True, True) if cell is not None else (False, False, False),
            length_unit=arrays.positions.unit,
            cell_unit="Å" if arrays.cell is None else arrays.cell.unit,
            values=values,
            available=tuple(values),
            split=file.split,
            where=where,
        )
        yield count, frame


def _matrix(value: object, where: str, key: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: '{key}' is not a list of three numbers an atom") from error
