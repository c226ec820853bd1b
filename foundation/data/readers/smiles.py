"""SMILES, from .smi and .csv files and from tables: conformers by ETKDG, the same for any number of workers."""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rdkit import Chem

from foundation.data.card import ResolvedDataset
from foundation.data.conformers import embed_molecule
from foundation.data.files import DataFile
from foundation.data.readers.molecule import molecule_frame, molecule_key, quiet
from foundation.data.readers.open_file import open_text
from foundation.data.readers.record import RawFrame
from foundation.data.readers.wanted import Wanted, everything
from foundation.errors import InputError

__all__ = ["Row", "RowFrame", "frames_of_rows", "read_smiles"]

_LOGGER = logging.getLogger(__name__)
_BATCH_PER_WORKER = 32
_SMI_KEY = "smiles"

RowFrame = tuple[int, RawFrame | None]
"""Number of a row from 0, and one of its structures."""
Row = tuple[str, Mapping[str, object]]
"""Where a row stands, and its columns."""


def read_smiles(
    file: DataFile, dataset: ResolvedDataset, *, workers: int, wanted: Wanted = everything
) -> Iterator[RowFrame]:
    """Yield the structures of a .smi or .csv file, each with its row; errors name the line, counted from 1.

    Raises:
        InputError: A column is missing, a SMILES cannot be parsed, or no conformer was found.
    """
    if ".csv" in [suffix.lower() for suffix in file.path.suffixes]:
        if dataset.smiles_key is None:
            raise InputError(f"{file.path}: state smiles_key: the column that holds the SMILES")
        rows = _csv_rows(file.path)
        key = dataset.smiles_key
    else:
        rows, key = _smi_rows(file.path), _SMI_KEY
    yield from frames_of_rows(rows, dataset, smiles_key=key, split=file.split, workers=workers, wanted=wanted)


def frames_of_rows(
    rows: Iterator[Row],
    dataset: ResolvedDataset,
    *,
    smiles_key: str,
    split: str | None,
    workers: int,
    wanted: Wanted,
) -> Iterator[RowFrame]:
    """Make structures of rows that hold a SMILES, in the rows' order, each with the number of its row.

    Rows that are not wanted, and those that give no structure, come once with None.

    Args:
        rows: Of a table.
        dataset: Its `conformers` and `limit` apply.
        smiles_key: Column of the SMILES.
        split: Of the file.
        workers: Threads (RDKit lets go of the interpreter while it embeds).
        wanted: Rows to read.

    Raises:
        InputError: As in `read_smiles`.
    """
    build: Callable[[Row], list[RawFrame] | None]
    build = partial(_structures, dataset=dataset, smiles_key=smiles_key, split=split)
    numbered = enumerate(itertools.islice(rows, dataset.limit))
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(itertools.islice(numbered, _BATCH_PER_WORKER * workers)):
            futures = [(number, pool.submit(build, row) if wanted(number) else None) for number, row in batch]
            for number, future in futures:
                frames = None if future is None else future.result()
                failed += future is not None and frames is None
                for frame in frames or (None,):
                    yield number, frame
    if failed:
        _LOGGER.warning("data '%s': %d molecules left out: no conformer found", dataset.name, failed)


def _structures(row: Row, *, dataset: ResolvedDataset, smiles_key: str, split: str | None) -> list[RawFrame] | None:
    """The conformers of one row; None if there is none and such molecules are left out."""
    where, values = row
    if smiles_key not in values:
        raise InputError(f"{where}: no column '{smiles_key}'; columns that are there: {', '.join(values)}")
    smiles = str(values[smiles_key]).strip()
    with quiet():
        mol = Chem.MolFromSmiles(smiles) if smiles else None
    if mol is None:
        raise InputError(f"{where}: SMILES '{smiles}' cannot be parsed")
    molecule = molecule_key(mol)
    mol = Chem.AddHs(mol)
    try:
        with quiet():
            conformers = embed_molecule(mol, dataset.conformers)
    except InputError as error:
        if dataset.conformers.on_failure == "skip":
            return None
        raise InputError(
            f"{where}: SMILES '{smiles}': {error}; conformers: {{on_failure: skip}} leaves it out"
        ) from error
    return [
        molecule_frame(
            mol,
            positions=positions,
            molecule=molecule,
            smiles=smiles,
            values=values,
            available=tuple(values),
            split=split,
            where=where,
        )
        for positions in conformers
    ]


def _csv_rows(path: Path) -> Iterator[Row]:
    with open_text(path) as stream:
        reader = csv.DictReader(stream)
        for values in reader:
            where = f"{path}: row {reader.line_num}"
            if None in values or None in values.values():
                raise InputError(f"{where}: {len(reader.fieldnames or ())} columns in the header, but not in this row")
            yield where, values


def _smi_rows(path: Path) -> Iterator[Row]:
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split(maxsplit=1)
            if words and not words[0].startswith("#"):
                yield f"{path}: row {number}", {_SMI_KEY: words[0], "name": words[1].strip() if len(words) > 1 else ""}
