"""A data set on disk: memory-mapped Arrow files of flat columns with offsets, checksummed.

A store is a folder: `metadata.json` and, for each shard, `structures-….arrow` (positions, elements and labels, in
internal units) and `index-….arrow` (one short row a structure: what splitting and batching need). It appears whole or
not at all. Opening reads the metadata only, so it takes as long and as much memory for ten million structures as for
ten. Every structure carries a checksum that is compared each time it is read; columns of the index are verified when
they are first used. Structures were validated when the store was made.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from foundation.data.arrow_shard import ListView, ShardEntry, check_size, open_shard, single_chunk, verify_file
from foundation.data.store_columns import fields_of_columns
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
from foundation.data.store_index import LabelCounts, StoreIndex, StringColumn
from foundation.data.store_remote import RemoteFolder, is_address
from foundation.errors import InputError

if TYPE_CHECKING:
    import foundation.data.graph
    import foundation.data.readers


class Store:
    """An opened store. Use `Store.create` or `Store.open`.

    Attributes:
        path: The folder.
        metadata: What its maker wrote down, JSON values.
        level_of_theory: Of all labels.
        properties: Labelled properties, in the order of the table of properties.
        elements: Atomic numbers that occur, ascending.
        groups: Group of each structure: what may not be torn apart by a split.
        given_splits: Split that the source gives for each structure, or None.
        splits_given: Whether it gives any.
        max_atoms: Of the largest structure.
        smiles: SMILES of each structure, or None.
        formulas: Hill formula of each structure.
        names: What to call each structure in an error.
        label_counts: Property -> labelled entries of each structure.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], *, remote: RemoteFolder | None = None) -> None:
        self.path = path
        self.metadata: dict[str, Any] = dict(content["metadata"])
        self.level_of_theory: str = content["level_of_theory"]
        self.properties: tuple[str, ...] = tuple(content["properties"])
        self.elements: tuple[int, ...] = tuple(content["elements"])
        self._remote = remote
        self._rebuild = _rebuild(path)
        self._entries = [Shard.from_json(entry) for entry in content["shards"]]
        if remote is None:
            for entry in self._entries:
                check_size(path, entry.structures, rebuild=self._rebuild)
                check_size(path, entry.index, rebuild=self._rebuild)
        counts = [entry.structures.num_structures for entry in self._entries]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._shards: list[_Shard | None] = [None] * len(self._entries)
        self._index = StoreIndex(path, self._entries, rebuild=self._rebuild, fetch=self._fetch)
        starts = self._starts.tolist()
        self.groups = cast(Sequence[str], StringColumn(self._index, "group", starts))
        self.given_splits: Sequence[str | None] = StringColumn(self._index, "split", starts)
        self.smiles: Sequence[str | None] = StringColumn(self._index, "smiles", starts)
        self.formulas = cast(Sequence[str], StringColumn(self._index, "formula", starts))
        self.names = cast(Sequence[str], StringColumn(self._index, "name", starts))
        self.label_counts: Mapping[str, Int[np.ndarray, " structures"]] = LabelCounts(self._index, self.properties)
        self.splits_given = any(entry.splits_given for entry in self._entries)
        self.max_atoms = max(entry.max_atoms for entry in self._entries)

    @functools.cached_property
    def num_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each structure."""
        return self._index.numbers("num_atoms")

    @classmethod
    def create(
        cls,
        path: Path | str,
        records: Iterable[foundation.data.readers.Record],
        *,
        level_of_theory: str,
        metadata: Mapping[str, Any],
    ) -> Store:
        """Write a store and open it. Nothing is left at `path` if anything fails.

        Args:
            path: A folder that does not exist.
            records: Structures in internal units; read once.
            level_of_theory: Of all labels.
            metadata: JSON values to keep with the data: source, licence, …

        Raises:
            InputError: A record is not a valid structure, there are none, or the disk is full.
            FileExistsError: The folder exists.
        """
        from foundation.data.store_writer import write_store  # here: it brings every reader's library

        write_store(Path(path), records, level_of_theory=level_of_theory, metadata=metadata)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str, *, cache_dir: Path | None = None) -> Store:
        """Open a store.

        Args:
            path: A folder, or any address that fsspec opens (`s3://bucket/name`, `https://…`): its files are brought
                to the cache when they are first used, each verified against its checksum.
            cache_dir: Where files from an address are kept; needed for an address.

        Raises:
            InputError: It is not a store, of another format version, or broken; the address cannot be read.
        """
        if is_address(path):
            assert cache_dir is not None, "an address needs a cache"
            content = cls.read_facts(path)
            remote = RemoteFolder(str(path))
            return cls(remote.keep(cache_dir, content["sha256"]), content, remote=remote)
        folder = Path(path)
        return cls(folder, _read_metadata(folder))

    @classmethod
    def read_facts(cls, path: Path | str) -> dict[str, Any]:
        """The content of a store's `metadata.json`, wherever it lies; nothing else of it is touched.

        Raises:
            InputError: As `open`.
        """
        if not is_address(path):
            return _read_metadata(Path(path))
        text = RemoteFolder(str(path)).read_text(METADATA_FILE)
        return _checked(text, f"{path}/{METADATA_FILE}", _rebuild_remote(path))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def verify(self) -> None:
        """Verify every byte of every shard now.

        Raises:
            InputError: A shard is missing or was changed.
        """
        for shard in self._entries:
            for entry in (shard.structures, shard.index):
                self._fetch(entry)
                verify_file(self.path, entry, rebuild=self._rebuild)

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """One structure's columns as read-only views of the mapped file: flat, absent labels and cells left out.

        Raises:
            InputError: The structure's checksum differs, or its shard is broken.
        """
        number, row = self._locate(index)
        shard = self._shard(number)
        arrays = shard.arrays(row)
        if row_crc(arrays) != shard.checksums.item(row):
            file = self.path / self._entries[number].structures.file
            raise InputError(
                f"{file}: corrupt store shard: the checksum of structure {index} (row {row} of the file) differs; "
                f"{self._rebuild}"
            )
        return arrays

    def graph(self, index: int, *, level_index: int = 0, dataset_index: int = 0) -> foundation.data.graph.AtomGraph:
        """One structure without edges.

        Args:
            index: Row of the store.
            level_index: Number of the level of theory in the model.
            dataset_index: Number of the data set in the mixture.

        Raises:
            InputError: The structure's checksum differs, or its shard is broken.
        """
        graph = _graph_class()()
        graph.fields.update(self.tensors(index, level_index=level_index, dataset_index=dataset_index))
        return graph

    def tensors(self, index: int, *, level_index: int = 0, dataset_index: int = 0) -> dict[str, Any]:
        """The fields of `graph(index)` by name: tensors of the caller's own, `targets` and `masks`, `num_graphs`.

        Raises:
            InputError: The structure's checksum differs, or its shard is broken.
        """
        arrays = self.arrays(index)
        return fields_of_columns(arrays, np.array([level_index, dataset_index, index, len(arrays["atomic_numbers"])]))

    def periodic_axes(self) -> Int[np.ndarray, " structures"]:
        """Bits of the axes along which each structure repeats: 0 for a molecule, 7 for a crystal.

        Raises:
            InputError: A shard is broken.
        """
        return np.concatenate([self._shard(number).column("pbc") for number in range(len(self._entries))]).astype(
            np.int64
        )

    def total_charges(self) -> Float[np.ndarray, " structures"]:
        """Total charge of each structure, e.

        Raises:
            InputError: A shard is broken.
        """
        return np.concatenate([self._shard(number).column("total_charge") for number in range(len(self._entries))])

    def load_neighbor_counts(self, cutoff: float) -> Int[np.ndarray, "structures 2"]:
        """Edges of each structure within `cutoff` (Å), and the most that one of its atoms receives.

        As far as they were counted before; -1 elsewhere.
        """
        unknown = np.full((len(self), 2), -1, dtype=np.int32)
        try:
            counts = np.load(self._neighbor_counts_file(cutoff), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return unknown
        return counts if counts.dtype == unknown.dtype and counts.shape == unknown.shape else unknown

    def save_neighbor_counts(self, cutoff: float, counts: Int[np.ndarray, "structures 2"]) -> None:
        """Keep what was counted for the next run; where the folder cannot be written, they are counted again then."""
        file = self._neighbor_counts_file(cutoff)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with contextlib.suppress(OSError):
            try:
                with partial.open("wb") as stream:
                    np.save(stream, counts, allow_pickle=False)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)

    def _neighbor_counts_file(self, cutoff: float) -> Path:
        return self.path / f"neighbors-{cutoff!r}.npy"

    def _locate(self, index: int) -> tuple[int, int]:
        assert 0 <= index < len(self), f"structure {index} of {len(self)}"
        if len(self._entries) == 1:
            return 0, index
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _shard(self, number: int) -> _Shard:
        shard = self._shards[number]
        if shard is None:
            entry = self._entries[number].structures
            self._fetch(entry)
            shard = self._shards[number] = _Shard(open_shard(self.path, entry, rebuild=self._rebuild))
        return shard

    def _fetch(self, entry: ShardEntry) -> None:
        """Bring a file here if the store lies elsewhere."""
        if self._remote is not None:
            self._remote.fetch(entry)


class _Shard:
    """The mapped columns of one file."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = {name: single_chunk(table, name).to_numpy() for name in (*SCALARS, CHECKSUM_COLUMN)}
        self.checksums = self.column(CHECKSUM_COLUMN)
        self._scalars = [(name, self.column(name)) for name in SCALARS]
        lists = [*LISTS, *(name for name in table.column_names if name.startswith(TARGET_PREFIX))]
        self._lists = [
            (name, view.values, view.offsets, view.present)
            for name in lists
            for view in (ListView(single_chunk(table, name)),)
        ]

    def column(self, name: str) -> np.ndarray:
        """A column of one number a structure."""
        return self._columns[name]

    def arrays(self, row: int) -> dict[str, np.ndarray]:
        found = {name: column[row : row + 1] for name, column in self._scalars}
        for name, values, offsets, present in self._lists:
            if present is None or present[row]:
                found[name] = values[offsets.item(row) : offsets.item(row + 1)]
        return found


@functools.cache
def _graph_class() -> type[foundation.data.graph.AtomGraph]:
    """Imported when the first graph is asked for: its base class takes more memory than an opened store."""
    from foundation.data.graph import AtomGraph

    return AtomGraph


def _rebuild(path: Path) -> str:
    return f"delete the folder '{path}' and run the same command again to rebuild it from its source"


def _rebuild_remote(address: object) -> str:
    return f"upload the store anew to '{address}'"


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: not a store: it has no {METADATA_FILE}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: corrupt store metadata; {_rebuild(path)}") from error
    return _checked(text, str(file), _rebuild(path))


def _checked(text: str, where: str, rebuild: str) -> dict[str, Any]:
    """The content of `metadata.json`, its checksum compared."""
    try:
        content = json.loads(text)
        version, sha256 = content["format_version"], content["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: corrupt store metadata; {rebuild}") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{where}: store format version {version!r}; this program reads {FORMAT_VERSION}; {rebuild}")
    if sha256 != checksum({key: value for key, value in content.items() if key != "sha256"}):
        raise InputError(f"{where}: corrupt store metadata: its checksum differs; {rebuild}")
    return content
