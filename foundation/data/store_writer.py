"""Writing a store: structures are validated, laid out as flat columns and brought to the disk shard by shard.

A shard is two files: `structures-….arrow` (positions, elements and labels) and `index-….arrow` (one short row a
structure: what splitting and batching need). Shards know nothing of each other, so that many processes can write them;
`write_metadata` makes a store of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ase.data import chemical_symbols

from foundation.data.arrow_shard import column_crc, list_column, open_shard, single_chunk, write_shard
from foundation.data.neighbors import neighbor_list
from foundation.data.readers import Record
from foundation.data.store_files import atomic_folder, write_file, writing
from foundation.data.store_format import (
    CHECKSUM_COLUMN,
    FORMAT_VERSION,
    LISTS,
    METADATA_FILE,
    SCALARS,
    TARGET_PREFIX,
    Shard,
    checksum,
    row_crc,
)
from foundation.errors import InputError
from foundation.properties import PROPERTIES

_CONTACT_CUTOFF = 1.0
"""Å; pairs to look at for atoms on top of each other. The neighbour list is slow at much smaller cutoffs."""
_INDEX_STRINGS = ("group", "split", "smiles", "formula", "name")
SHARD_BYTES = 1 << 26
"""Flat bytes after which a shard is closed: small enough to hold in memory while writing and to verify in moments."""


def write_store(
    path: Path,
    records: Iterable[Record],
    *,
    level_of_theory: str,
    metadata: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a store at `path`, whole or not at all.

    Args:
        path: A folder that does not exist.
        records: Structures in internal units; read once.
        level_of_theory: Of all labels.
        metadata: JSON values to keep with the data.
        shard_bytes: Flat bytes after which a shard is closed.

    Raises:
        InputError: A record is not a valid structure, there are none, or the disk is full.
        FileExistsError: The folder exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    with atomic_folder(path) as partial:
        shards: list[Shard] = []
        pending = PendingShard()
        for record in records:
            pending.add(record)
            if pending.num_bytes >= shard_bytes:
                with writing(path):
                    shards.append(pending.write(partial, f"{len(shards):05d}"))
        with writing(path):
            if len(pending):
                shards.append(pending.write(partial, f"{len(shards):05d}"))
        if not shards:
            raise InputError(f"{path.name}: the source holds no structures")
        with writing(path):
            write_metadata(partial, shards, level_of_theory=level_of_theory, metadata=metadata)


def write_metadata(folder: Path, shards: Sequence[Shard], *, level_of_theory: str, metadata: Mapping[str, Any]) -> None:
    """Make a store of the shards that lie in a folder.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    properties = {name for shard in shards for name in shard.properties}
    content = {
        "format_version": FORMAT_VERSION,
        "level_of_theory": level_of_theory,
        "properties": [name for name in PROPERTIES if name in properties],
        "elements": sorted({number for shard in shards for number in shard.elements}),
        "num_structures": sum(shard.structures.num_structures for shard in shards),
        "metadata": dict(metadata),
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    text = json.dumps({**content, "sha256": checksum(content)}, indent=1, ensure_ascii=False)
    write_file(folder / METADATA_FILE, text.encode())


class PendingShard:
    """Collects records until they are written as one shard, with columns for the properties that occur.

    Attributes:
        num_bytes: Flat bytes that are waiting, about.
    """

    def __init__(self) -> None:
        self._records: list[Record] = []
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Validate a structure and take it in.

        Raises:
            InputError: It is not a valid structure.
        """
        _validate(record)
        self._records.append(record)
        values = sum(8 * np.size(value) for value in record.targets.values())
        self.num_bytes += 25 * len(record.atomic_numbers) + 100 + values

    def write(self, folder: Path, name: str) -> Shard:
        """Write what has been collected and begin anew.

        Args:
            folder: Where.
            name: What tells this shard from others, for the files' names.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        assert self._records, "an empty shard"
        records, self._records, self.num_bytes = self._records, [], 0
        present = {name for record in records for name in record.targets}
        properties = tuple(name for name in PROPERTIES if name in present)
        structures = write_shard(folder / f"structures-{name}.arrow", _columns(records, properties))
        index = write_shard(folder / f"index-{name}.arrow", _index_columns(records, properties))
        table = open_shard(folder, index, rebuild="run the same command again")
        return Shard(
            structures=structures,
            index=index,
            index_crc32={column: column_crc(single_chunk(table, column)) for column in table.column_names},
            properties=properties,
            elements=tuple(np.unique(np.concatenate([record.atomic_numbers for record in records])).tolist()),
            max_atoms=max(len(record.atomic_numbers) for record in records),
            splits_given=any(record.split is not None for record in records),
        )


def _row(record: Record, properties: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns of one structure, in the order and types of the file; absent lists are left out."""
    scalars = (_pbc_bits(record), record.total_charge, record.spin_multiplicity)
    row = {name: np.array([value], dtype=SCALARS[name]) for name, value in zip(SCALARS, scalars, strict=True)}
    lists: dict[str, Any] = {name: (getattr(record, name), dtype) for name, dtype in LISTS.items()}
    lists |= {TARGET_PREFIX + name: (record.targets.get(name), np.float64) for name in properties}
    for name, (value, dtype) in lists.items():
        if value is not None:
            row[name] = np.ascontiguousarray(value, dtype=dtype).reshape(-1)
    return row


def _columns(records: list[Record], properties: tuple[str, ...]) -> dict[str, pa.Array]:
    rows = [_row(record, properties) for record in records]
    columns = {name: pa.array(np.concatenate([row[name] for row in rows])) for name in SCALARS}
    columns[CHECKSUM_COLUMN] = pa.array(np.array([row_crc(row) for row in rows], dtype=np.uint32))
    types = LISTS | {TARGET_PREFIX + name: np.float64 for name in properties}
    return columns | {name: list_column([row.get(name) for row in rows], dtype) for name, dtype in types.items()}


def _index_columns(records: list[Record], properties: tuple[str, ...]) -> dict[str, pa.Array]:
    strings = {
        "group": [record.group for record in records],
        "split": [record.split for record in records],
        "smiles": [record.smiles for record in records],
        "formula": [hill_formula(record.atomic_numbers) for record in records],
        "name": [record.where for record in records],
    }
    numbers = {"num_atoms": [len(record.atomic_numbers) for record in records]}
    for name in properties:
        numbers[f"labels.{name}"] = [_num_labels(name, record) for record in records]
    columns = {name: pa.array(np.array(values, dtype=np.int32)) for name, values in numbers.items()}
    return columns | {name: pa.array(strings[name], type=pa.string()) for name in _INDEX_STRINGS}


def _pbc_bits(record: Record) -> int:
    pbc = np.broadcast_to(np.asarray(record.pbc, dtype=bool), (3,))
    return int(pbc @ np.array([1, 2, 4]))


def _validate(record: Record) -> None:
    graph = record.graph()
    neighbor_list(
        positions=graph.positions.numpy(),
        cell=graph.cell[0].numpy(),
        pbc=graph.pbc[0].numpy(),
        cutoff=_CONTACT_CUTOFF,
        where=record.where,
    )


def _num_labels(name: str, record: Record) -> int:
    value = record.targets.get(name)
    if value is None:
        return 0
    if PROPERTIES[name].level == "graph":
        return 1
    return int((~np.isnan(np.reshape(value, (len(record.atomic_numbers), -1))).all(axis=1)).sum())


def hill_formula(atomic_numbers: np.ndarray) -> str:
    """Composition such as `C9H8O4`: carbon, hydrogen, then the rest by symbol; all by symbol if there is no carbon."""
    counts = Counter(chemical_symbols[number] for number in np.asarray(atomic_numbers).tolist())
    leading = ("C", "H") if "C" in counts else ()
    order = [*(symbol for symbol in leading if symbol in counts), *sorted(counts.keys() - set(leading))]
    return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)
