"""The index of a store: one short row a structure, read column by column when asked for.

Nothing is read when a store is opened. A column of a shard is verified against its checksum when it is first used.
"""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from foundation.data.arrow_shard import ShardEntry, column_crc, open_shard, single_chunk
from foundation.data.store_format import Shard
from foundation.errors import InputError


class StoreIndex:
    """The index files of all shards.

    Args:
        path: The store.
        shards: As its metadata records them.
        rebuild: What the user can do if a file is broken.
        fetch: Called with each file before it is opened.
    """

    def __init__(
        self, path: Path, shards: Sequence[Shard], *, rebuild: str, fetch: Callable[[ShardEntry], None]
    ) -> None:
        self._path, self._shards, self._rebuild, self._fetch = path, shards, rebuild, fetch
        self._tables: list[pa.Table | None] = [None] * len(shards)
        self._verified: set[tuple[int, str]] = set()

    def numbers(self, name: str) -> Int[np.ndarray, " structures"]:
        """A column of whole numbers; zeros where a shard has none."""
        parts = []
        for number, shard in enumerate(self._shards):
            column = self.column(number, name)
            parts.append(np.zeros(shard.index.num_structures, np.int32) if column is None else column.to_numpy())
        return np.concatenate(parts)

    def column(self, number: int, name: str) -> pa.Array | None:
        """A column of one shard; None if it has none of this name.

        Raises:
            InputError: The file is missing or broken.
        """
        shard = self._shards[number]
        if name not in shard.index_crc32:
            return None
        table = self._tables[number]
        if table is None:
            self._fetch(shard.index)
            table = self._tables[number] = open_shard(self._path, shard.index, rebuild=self._rebuild)
        column = single_chunk(table, name)
        if (number, name) not in self._verified:
            if column_crc(column) != shard.index_crc32[name]:
                file = self._path / shard.index.file
                raise InputError(f"{file}: corrupt store shard: the checksum of '{name}' differs; {self._rebuild}")
            self._verified.add((number, name))
        return column


class StringColumn(Sequence[str | None]):
    """A column of text, each entry read when asked for; equal to a list of the same entries.

    Args:
        index: The index.
        name: Of the column.
        starts: First structure of each shard, and their number behind the last.
    """

    def __init__(self, index: StoreIndex, name: str, starts: Sequence[int]) -> None:
        self._index, self._name, self._starts = index, name, starts

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: SupportsIndex) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[str | None]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str | None] | None:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        number = bisect.bisect_right(self._starts, row) - 1
        return self._column(number)[row - self._starts[number]].as_py()

    def __iter__(self) -> Iterator[str | None]:
        return itertools.chain.from_iterable(
            self._column(number).to_pylist() for number in range(len(self._starts) - 1)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} × {self._name}>"

    def _column(self, number: int) -> pa.Array:
        column = self._index.column(number, self._name)
        assert column is not None
        return column


class LabelCounts(Mapping[str, Int[np.ndarray, " structures"]]):
    """Property -> labelled entries of each structure, read when asked for and then kept.

    Args:
        index: The index.
        properties: That the store has.
    """

    def __init__(self, index: StoreIndex, properties: tuple[str, ...]) -> None:
        self._index, self._properties = index, properties
        self._known: dict[str, Int[np.ndarray, " structures"]] = {}

    def __getitem__(self, name: str) -> Int[np.ndarray, " structures"]:
        if name not in self._properties:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._index.numbers(f"labels.{name}")
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._properties)

    def __len__(self) -> int:
        return len(self._properties)
