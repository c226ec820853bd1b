"""Graphs with edges as a sequence: built from a store when first asked for, kept in memory up to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from jaxtyping import Int

from foundation.data.graph import AtomGraph
from foundation.data.neighbors import with_neighbors
from foundation.data.store import Store

_FIXED_BYTES = 12_000
"""Of one graph in memory without its numbers: some twenty tensors and their containers."""
_BYTES_PER_ATOM = 120
_BYTES_PER_EDGE = 48
_SAMPLE = 16


class MemoryBudget:
    """How many bytes of graphs several sequences may keep between them.

    Args:
        num_bytes: The bound.
    """

    def __init__(self, num_bytes: int) -> None:
        self.remaining = num_bytes

    def take(self, graph: AtomGraph) -> bool:
        """Reserve room for a graph; false if there is none."""
        size = estimated_bytes(graph)
        if size > self.remaining:
            return False
        self.remaining -= size
        return True


def estimated_bytes(graph: AtomGraph) -> int:
    """Memory that a graph with edges takes."""
    return _FIXED_BYTES + _BYTES_PER_ATOM * len(graph.positions) + _BYTES_PER_EDGE * len(graph.senders)


class GraphSequence(Sequence):  # not Sequence[AtomGraph]: a check of types would read one of them from disk
    """Some structures of a store, as graphs with edges.

    The graphs that are kept are shared: who changes one in place changes it for all.

    Args:
        store: Where they come from.
        rows: Which of its structures.
        cutoff: Å.
        level_index: Number of the store's level of theory.
        dataset_index: Number of the data set.
        budget: Memory to keep graphs in.
    """

    def __init__(
        self,
        store: Store,
        rows: Int[np.ndarray, " structures"],
        *,
        cutoff: float,
        level_index: int,
        dataset_index: int,
        budget: MemoryBudget,
    ) -> None:
        self.store = store
        self.rows = rows
        self._cutoff = cutoff
        self._level_index = level_index
        self._dataset_index = dataset_index
        self.budget = budget
        self._kept: dict[int, AtomGraph] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> AtomGraph: ...
    @overload
    def __getitem__(self, index: slice) -> list[AtomGraph]: ...
    def __getitem__(self, index: int | slice) -> AtomGraph | list[AtomGraph]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        row = int(self.rows[index])
        graph = self.store.graph(row, level_index=self._level_index, dataset_index=self._dataset_index)
        graph = with_neighbors(graph, self._cutoff, where=self.store.names[row])
        if self.budget.take(graph):
            self._kept[index] = graph
        return graph

    @property
    def num_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each graph."""
        return self.store.num_atoms[self.rows]

    def name(self, index: int) -> str:
        """What to call a graph in an error."""
        return self.store.names[int(self.rows[index])]

    def count_neighbors(self) -> Int[np.ndarray, "structures 2"]:
        """Edges of each graph, and the most that one of its atoms receives.

        They are counted once for a store and cutoff and kept beside its shards.
        """
        known = self.store.load_neighbor_counts(self._cutoff)
        missing = np.flatnonzero(known[self.rows, 0] < 0)
        for index in missing:
            receivers = self[int(index)].receivers
            most = int(torch.bincount(receivers).max()) if len(receivers) else 1
            known[self.rows[index]] = (len(receivers), most)
        if len(missing):
            self.store.save_neighbor_counts(self._cutoff, known)
        return known[self.rows]


class ConcatenatedGraphs(Sequence):  # see GraphSequence
    """Several sequences end to end.

    Args:
        parts: The sequences.
    """

    def __init__(self, parts: Sequence[GraphSequence]) -> None:
        self.parts = tuple(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> AtomGraph: ...
    @overload
    def __getitem__(self, index: slice) -> list[AtomGraph]: ...
    def __getitem__(self, index: int | slice) -> AtomGraph | list[AtomGraph]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        part, place = self._locate(index)
        return part[place]

    @property
    def num_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms of each graph."""
        return np.concatenate([part.num_atoms for part in self.parts])

    def count_neighbors(self) -> Int[np.ndarray, "structures 2"]:
        """Edges of each graph, and the most that one of its atoms receives."""
        return np.concatenate([part.count_neighbors() for part in self.parts])

    def name(self, index: int) -> str:
        """What to call a graph in an error."""
        part, place = self._locate(index)
        return part.name(place)

    def parts_of(self, indices: Int[np.ndarray, " structures"]) -> frozenset[int]:
        """Which of the sequences hold these graphs."""
        return frozenset((np.searchsorted(self._starts, indices, side="right") - 1).tolist())

    def build_if_all_fit(self) -> None:
        """Build every graph now if memory suffices for all, so that processes forked afterwards share them."""
        sample = [self[int(place)] for place in np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64)]
        if np.mean([estimated_bytes(graph) for graph in sample]) * len(self) > self.parts[0].budget.remaining:
            return
        for _ in self:
            pass

    def keep_no_more(self) -> None:
        """Build graphs that are not in memory anew each time from now on."""
        for part in self.parts:
            part.budget.remaining = 0

    def _locate(self, index: int) -> tuple[GraphSequence, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[number], index - int(self._starts[number])
