"""A data set on disk: memory-mapped Arrow files of flat columns with offsets, checksummed.

A store is a folder: `metadata.json`, `index.arrow` (one short row a structure: what splitting and batching need) and
`structures-00000.arrow`, … (positions, elements and labels, in internal units). It appears whole or not at all. The
index is verified when the store is opened, each shard when it is first used. Structures were validated when the store
was made.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from foundation.data.arrow_shard import ListView, ShardEntry, check_size, open_shard, single_chunk
from foundation.data.graph import AtomGraph
from foundation.data.readers import Record
from foundation.data.store_writer import FORMAT_VERSION, METADATA_FILE, TARGET_PREFIX, checksum, write_store
from foundation.errors import InputError
from foundation.properties import PROPERTIES

_AXES = np.arange(3, dtype=np.uint8)
_SCALARS = ("pbc", "total_charge", "spin_multiplicity")


class Store:
    """An opened store. Use `Store.create` or `Store.open`.

    Attributes:
        path: The folder.
        metadata: What its maker wrote down, JSON values.
        level_of_theory: Of all labels.
        properties: Labelled properties, in the order of the table of properties.
        elements: Atomic numbers that occur, ascending.
        num_atoms: `[structures]`.
        groups: Group of each structure: what may not be torn apart by a split.
        given_splits: Split that the source gives for each structure, or None.
        smiles: SMILES of each structure, or None.
        formulas: Hill formula of each structure.
        names: What to call each structure in an error.
        label_counts: Property -> labelled entries of each structure.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata: dict[str, Any] = dict(content["metadata"])
        self.level_of_theory: str = content["level_of_theory"]
        self.properties: tuple[str, ...] = tuple(content["properties"])
        self.elements: tuple[int, ...] = tuple(content["elements"])
        self._rebuild = f"delete the folder '{path}' and run the same command again to rebuild it from its source"
        self._entries = [ShardEntry(**entry) for entry in content["shards"]]
        for entry in self._entries:
            check_size(path, entry, rebuild=self._rebuild)
        self._starts = np.concatenate([[0], np.cumsum([entry.num_structures for entry in self._entries])])
        self._shards: list[_Shard | None] = [None] * len(self._entries)
        index = open_shard(path, ShardEntry(**content["index"]), rebuild=self._rebuild)
        self.num_atoms: Int[np.ndarray, " structures"] = single_chunk(index, "num_atoms").to_numpy().astype(np.int64)
        self.groups: list[str] = single_chunk(index, "group").to_pylist()
        self.given_splits: list[str | None] = single_chunk(index, "split").to_pylist()
        self.smiles: list[str | None] = single_chunk(index, "smiles").to_pylist()
        self.formulas: list[str] = single_chunk(index, "formula").to_pylist()
        self.names: list[str] = single_chunk(index, "name").to_pylist()
        self.label_counts: dict[str, Int[np.ndarray, " structures"]] = {
            name: single_chunk(index, f"labels.{name}").to_numpy().astype(np.int64) for name in self.properties
        }

    @classmethod
    def create(
        cls,
        path: Path | str,
        records: Iterable[Record],
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
        write_store(Path(path), records, level_of_theory=level_of_theory, metadata=metadata)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a store: its index is verified now, each shard when it is first used.

        Raises:
            InputError: It is not a store, of another format version, or broken.
        """
        path = Path(path)
        return cls(path, _read_metadata(path))

    def __len__(self) -> int:
        return len(self.num_atoms)

    def verify(self) -> None:
        """Verify every shard now.

        Raises:
            InputError: A shard is missing or was changed.
        """
        for number in range(len(self._entries)):
            self._shard(number)

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """One structure's columns as read-only views of the mapped file: flat, absent labels and cells left out.

        Raises:
            InputError: The shard is broken.
        """
        number, row = self._locate(index)
        return self._shard(number).arrays(row)

    def graph(self, index: int, *, level_index: int = 0, dataset_index: int = 0) -> AtomGraph:
        """One structure without edges.

        Args:
            index: Row of the store.
            level_index: Number of the level of theory in the model.
            dataset_index: Number of the data set in the mixture.

        Raises:
            InputError: The shard is broken.
        """
        number, row = self._locate(index)
        graph = self._shard(number).graph(row)
        graph.level_index = torch.tensor([level_index])
        graph.dataset_index = torch.tensor([dataset_index])
        graph.structure_index = torch.tensor([index])
        return graph

    def periodic_axes(self) -> Int[np.ndarray, " structures"]:
        """Bits of the axes along which each structure repeats: 0 for a molecule, 7 for a crystal.

        Raises:
            InputError: A shard is broken.
        """
        return np.concatenate([self._shard(number).periodic_axes for number in range(len(self._entries))])

    def load_edge_counts(self, cutoff: float) -> Int[np.ndarray, " structures"]:
        """Number of edges of each structure within `cutoff` (Å) as far as they were counted before; -1 elsewhere."""
        unknown = np.full(len(self), -1, dtype=np.int64)
        try:
            counts = np.load(self._edge_counts_file(cutoff), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return unknown
        return counts if counts.dtype == unknown.dtype and counts.shape == unknown.shape else unknown

    def save_edge_counts(self, cutoff: float, counts: Int[np.ndarray, " structures"]) -> None:
        """Keep counted edges for the next run; where the folder cannot be written, they are counted again then."""
        file = self._edge_counts_file(cutoff)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with contextlib.suppress(OSError):
            try:
                with partial.open("wb") as stream:
                    np.save(stream, counts, allow_pickle=False)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)

    def _edge_counts_file(self, cutoff: float) -> Path:
        return self.path / f"edges-{cutoff!r}.npy"

    def _locate(self, index: int) -> tuple[int, int]:
        assert 0 <= index < len(self), f"structure {index} of {len(self)}"
        if len(self._entries) == 1:
            return 0, index
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _shard(self, number: int) -> _Shard:
        shard = self._shards[number]
        if shard is None:
            table = open_shard(self.path, self._entries[number], rebuild=self._rebuild)
            shard = self._shards[number] = _Shard(table, self.properties)
        return shard


class _Shard:
    """The mapped columns of one file."""

    def __init__(self, table: pa.Table, properties: tuple[str, ...]) -> None:
        self._target_columns = {
            TARGET_PREFIX + name: name for name in properties if TARGET_PREFIX + name in table.column_names
        }
        self._scalars = [(name, single_chunk(table, name).to_numpy()) for name in _SCALARS]
        self._lists = [
            (name, view.values, view.offsets, view.present)
            for name in ("positions", "atomic_numbers", "cell", *self._target_columns)
            for view in (ListView(single_chunk(table, name)),)
        ]

    @property
    def periodic_axes(self) -> Int[np.ndarray, " structures"]:
        """Bits of the axes along which each structure repeats."""
        return dict(self._scalars)["pbc"].astype(np.int64)

    def arrays(self, row: int) -> dict[str, np.ndarray]:
        found = {name: column[row : row + 1] for name, column in self._scalars}
        for name, values, offsets, present in self._lists:
            if present is None or present[row]:
                found[name] = values[offsets.item(row) : offsets.item(row + 1)]
        return found

    def graph(self, row: int) -> AtomGraph:
        arrays = self.arrays(row)
        numbers = arrays["atomic_numbers"].astype(np.int64)
        num_atoms = len(numbers)
        cell = arrays["cell"].reshape(1, 3, 3).copy() if "cell" in arrays else np.zeros((1, 3, 3))
        pbc = (arrays["pbc"][:, None] >> _AXES) & 1 > 0
        graph = AtomGraph()
        graph.positions = torch.from_numpy(arrays["positions"].reshape(-1, 3).copy())
        graph.atomic_numbers = torch.from_numpy(numbers)
        graph.cell = torch.from_numpy(cell)
        graph.pbc = torch.from_numpy(pbc)
        graph.total_charge = torch.from_numpy(arrays["total_charge"].astype(np.float64))
        graph.spin_multiplicity = torch.from_numpy(arrays["spin_multiplicity"].astype(np.int64))
        graph.targets, graph.masks = {}, {}
        for column, name in self._target_columns.items():
            if column not in arrays:
                continue
            graph.targets[name], graph.masks[name] = _label(name, arrays[column], num_atoms)
        graph.graph_index = torch.zeros(num_atoms, dtype=torch.int64)
        graph.num_atoms_per_graph = torch.tensor([num_atoms])
        graph.num_graphs = 1
        return graph


def _label(name: str, flat: np.ndarray, num_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    prop = PROPERTIES[name]
    rows = num_atoms if prop.level == "atom" else 1
    missing = np.isnan(flat.reshape(rows, -1)).all(axis=1)
    values = flat.reshape(rows, *prop.shape).copy()
    values[missing] = 0.0
    return torch.from_numpy(values), torch.from_numpy(~missing)


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA_FILE
    rebuild = f"delete the folder '{path}' and run the same command again to rebuild it from its source"
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: not a store: it has no {METADATA_FILE}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: corrupt store metadata; {rebuild}") from error
    try:
        content = json.loads(text)
        version, sha256 = content["format_version"], content.pop("sha256")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: corrupt store metadata; {rebuild}") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: store format version {version!r}; this program reads {FORMAT_VERSION}; {rebuild}")
    if sha256 != checksum(content):
        raise InputError(f"{file}: corrupt store metadata: its checksum differs; {rebuild}")
    return content
