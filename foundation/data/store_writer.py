"""Writing a store: structures are validated, laid out as flat columns and brought to the disk shard by shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ase.data import chemical_symbols

from foundation.data.arrow_shard import ShardEntry, list_column, write_shard
from foundation.data.neighbors import neighbor_list
from foundation.data.readers import Record
from foundation.data.store_files import atomic_folder, write_file, writing
from foundation.errors import InputError
from foundation.properties import PROPERTIES

FORMAT_VERSION = 1
METADATA_FILE = "metadata.json"
TARGET_PREFIX = "target."
_CONTACT_CUTOFF = 1.0
"""Å; pairs to look at for atoms on top of each other. The neighbour list is slow at much smaller cutoffs."""
_INDEX_COLUMNS = ("num_atoms", "group", "split", "smiles", "formula", "name")
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
        writer = _Writer(partial, final=path, shard_bytes=shard_bytes)
        for record in records:
            writer.add(record)
        writer.finish(level_of_theory=level_of_theory, metadata=metadata)


def checksum(content: Mapping[str, Any]) -> str:
    """Digest of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class _Writer:
    """Collects records into shards; a shard has columns for the properties that occur in it."""

    def __init__(self, folder: Path, *, final: Path, shard_bytes: int) -> None:
        self._folder, self._final, self._shard_bytes = folder, final, shard_bytes
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._shards: list[ShardEntry] = []
        self._index: dict[str, list[Any]] = {name: [] for name in _INDEX_COLUMNS}
        self._labels: dict[str, dict[int, int]] = {}
        self._elements: set[int] = set()

    def add(self, record: Record) -> None:
        """Validate a structure and take it in."""
        _validate(record)
        row = len(self._index["num_atoms"])
        numbers = record.atomic_numbers
        self._elements.update(np.unique(numbers).tolist())
        for name, value in {
            "num_atoms": len(numbers),
            "group": record.group,
            "split": record.split,
            "smiles": record.smiles,
            "formula": hill_formula(numbers),
            "name": record.where,
        }.items():
            self._index[name].append(value)
        for name, value in record.targets.items():
            self._labels.setdefault(name, {})[row] = _num_labels(name, value, len(numbers))
        self._pending.append(record)
        self._pending_bytes += 25 * len(numbers) + 100 + sum(8 * np.size(value) for value in record.targets.values())
        if self._pending_bytes >= self._shard_bytes:
            self._flush()

    def finish(self, *, level_of_theory: str, metadata: Mapping[str, Any]) -> None:
        """Write what is left, the index and the metadata."""
        if self._pending:
            self._flush()
        num_structures = len(self._index["num_atoms"])
        if num_structures == 0:
            raise InputError(f"{self._final.name}: the source holds no structures")
        properties = [name for name in PROPERTIES if name in self._labels]
        content = {
            "format_version": FORMAT_VERSION,
            "level_of_theory": level_of_theory,
            "properties": properties,
            "elements": sorted(self._elements),
            "num_structures": num_structures,
            "metadata": dict(metadata),
            "shards": [dataclasses.asdict(entry) for entry in self._shards],
        }
        with writing(self._final):
            index = write_shard(self._folder / "index.arrow", self._index_columns(properties, num_structures))
            content["index"] = dataclasses.asdict(index)
            text = json.dumps({**content, "sha256": checksum(content)}, indent=1, ensure_ascii=False)
            write_file(self._folder / METADATA_FILE, text.encode())

    def _index_columns(self, properties: list[str], num_structures: int) -> dict[str, pa.Array]:
        columns = {
            name: pa.array(values, type=pa.int32() if name == "num_atoms" else pa.string())
            for name, values in self._index.items()
        }
        for name in properties:
            counts = np.zeros(num_structures, dtype=np.int32)
            rows = self._labels[name]
            counts[list(rows.keys())] = list(rows.values())
            columns[f"labels.{name}"] = pa.array(counts)
        return columns

    def _flush(self) -> None:
        with writing(self._final):
            path = self._folder / f"structures-{len(self._shards):05d}.arrow"
            self._shards.append(write_shard(path, _columns(self._pending)))
        self._pending, self._pending_bytes = [], 0


def _columns(records: list[Record]) -> dict[str, pa.Array]:
    columns = {
        "positions": list_column([record.positions for record in records], np.float64),
        "atomic_numbers": list_column([record.atomic_numbers for record in records], np.uint8),
        "cell": list_column([record.cell for record in records], np.float64),
        "pbc": pa.array(np.array([_pbc_bits(record) for record in records], dtype=np.uint8)),
        "total_charge": pa.array(np.array([record.total_charge for record in records], dtype=np.float64)),
        "spin_multiplicity": pa.array(np.array([record.spin_multiplicity for record in records], dtype=np.int32)),
    }
    present = {name for record in records for name in record.targets}
    for name in PROPERTIES:
        if name in present:
            columns[TARGET_PREFIX + name] = list_column([record.targets.get(name) for record in records], np.float64)
    return columns


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


def _num_labels(name: str, value: np.ndarray, num_atoms: int) -> int:
    if PROPERTIES[name].level == "graph":
        return 1
    return int((~np.isnan(np.reshape(value, (num_atoms, -1))).all(axis=1)).sum())


def hill_formula(atomic_numbers: np.ndarray) -> str:
    """Composition such as `C9H8O4`: carbon, hydrogen, then the rest by symbol; all by symbol if there is no carbon."""
    counts = Counter(chemical_symbols[number] for number in np.asarray(atomic_numbers).tolist())
    leading = ("C", "H") if "C" in counts else ()
    order = [*(symbol for symbol in leading if symbol in counts), *sorted(counts.keys() - set(leading))]
    return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)
