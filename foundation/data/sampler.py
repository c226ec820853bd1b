"""Batches bounded by structures, atoms and edges.

The batch is a pure function of (seed, epoch, step, rank): it does not depend on worker processes or on where a run was
interrupted. Every epoch has the same number of steps, and every rank takes all of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
import pydantic
from jaxtyping import Int

from foundation.config import Config
from foundation.data.mixture import Mixture, random_generator
from foundation.errors import InputError

Batch = Int[np.ndarray, " _"]
"""Structures of one batch; the lengths of batches differ."""

_REUSE_STREAM = 3
_Piece = tuple[int, tuple[int, ...], Batch]
"""Minus its atoms, its place among the batches, the batch itself."""


class BatchConfig(Config):
    """Upper bounds of one batch on one device. A bound that is not set does not bind.

    Attributes:
        max_structures: Structures in a batch.
        max_atoms: Atoms in a batch.
        max_edges: Directed edges within the cutoff in a batch: memory goes with these.
    """

    max_structures: int = pydantic.Field(ge=1)
    max_atoms: int | None = pydantic.Field(default=None, ge=1)
    max_edges: int | None = pydantic.Field(default=None, ge=1)


class Bounds:
    """The sizes of all structures against the bounds of a batch.

    Args:
        config: The bounds.
        num_atoms: Of each structure.
        num_edges: Of each structure; needed only where `max_edges` is set.
        name: What to call structure i in an error.

    Raises:
        InputError: A structure alone is above a bound.
    """

    def __init__(
        self,
        config: BatchConfig,
        *,
        num_atoms: Int[np.ndarray, " structures"],
        num_edges: Int[np.ndarray, " structures"] | None,
        name: Callable[[int], str],
    ) -> None:
        self.num_atoms = np.asarray(num_atoms, dtype=np.int64)
        self._measures: list[tuple[np.ndarray, int]] = [(np.ones_like(self.num_atoms), config.max_structures)]
        problems: list[str] = []
        for key, sizes, bound in (
            ("atoms", self.num_atoms, config.max_atoms),
            ("edges", num_edges, config.max_edges),
        ):
            if bound is None:
                continue
            assert sizes is not None, f"max_{key} is set, but the {key} were not counted"
            problems += _too_large(np.asarray(sizes), bound, key, name)
            self._measures.append((np.asarray(sizes, dtype=np.int64), bound))
        if problems:
            raise InputError(problems)

    def pack(self, order: Int[np.ndarray, " draws"]) -> list[Batch]:
        """Cut a sequence of structures into consecutive batches, each as long as the bounds allow."""
        totals = [(np.concatenate([[0], np.cumsum(sizes[order])]), bound) for sizes, bound in self._measures]
        batches, start = [], 0
        while start < len(order):
            ends = [int(np.searchsorted(total, total[start] + bound, side="right")) - 1 for total, bound in totals]
            batches.append(order[start : min(ends)])
            start = min(ends)
        return batches

    def place(
        self, structures: Batch, batches: list[Batch], *, group_of: Callable[[Batch], Batch]
    ) -> list[Batch] | None:
        """Put structures, largest first, each into the first batch of its group that has room.

        Args:
            structures: To be placed.
            batches: Each of one group.
            group_of: The group of each structure.

        Returns:
            The filled batches; None if a structure finds no room.
        """
        groups = np.array([group_of(batch[:1])[0] for batch in batches])
        used = [np.array([sizes[batch].sum() for batch in batches]) for sizes, _ in self._measures]
        added: dict[int, list[int]] = {}
        for structure in structures[np.argsort(-self.num_atoms[structures], kind="stable")]:
            room = groups == group_of(np.array([structure]))[0]
            for (sizes, bound), taken in zip(self._measures, used, strict=True):
                room &= taken + sizes[structure] <= bound
            if not room.any():
                return None
            chosen = int(room.argmax())
            added.setdefault(chosen, []).append(int(structure))
            for (sizes, _), taken in zip(self._measures, used, strict=True):
                taken[chosen] += sizes[structure]
        return [
            np.concatenate([batch, np.array(added[place], dtype=np.int64)]) if place in added else batch
            for place, batch in enumerate(batches)
        ]

    def split(self, batches: list[Batch], count: int) -> list[Batch]:
        """Halve the batches with most atoms until there are `count`, or none can be halved; the order stays."""
        heap: list[_Piece] = []
        whole: list[_Piece] = []
        for place, batch in enumerate(batches):
            (heap if len(batch) > 1 else whole).append((-int(self.num_atoms[batch].sum()), (place,), batch))
        heapq.heapify(heap)
        while heap and len(heap) + len(whole) < count:
            _, key, batch = heapq.heappop(heap)
            middle = len(batch) // 2
            for side, half in enumerate((batch[:middle], batch[middle:])):
                piece: _Piece = (-int(self.num_atoms[half].sum()), (*key, side), half)
                if len(half) == 1:
                    whole.append(piece)
                else:
                    heapq.heappush(heap, piece)
        return [batch for _, _, batch in sorted(heap + whole, key=lambda piece: piece[1])]


def _too_large(sizes: np.ndarray, bound: int, key: str, name: Callable[[int], str]) -> list[str]:
    large = np.flatnonzero(sizes > bound)
    problems = [
        f"{name(int(i))}: {int(sizes[i])} {key} alone are more than a batch may hold; "
        f"batch.max_{key} is {bound}, allowed: {int(sizes.max())} or more"
        for i in large[:5]
    ]
    if len(large) > 5:
        problems.append(f"… and {len(large) - 5} more structures above batch.max_{key}")
    return problems


class TrainingBatches:
    """The training batches of every epoch, for every rank.

    The number of steps is that of epoch 0. Where another epoch's order packs into fewer batches, some are halved; where
    it packs into more, the surplus is put into batches with room, and if it does not fit, epoch 0's batches come in a
    new order. Nothing is dropped. Nothing is repeated either, unless every batch is down to one structure and their
    number is still no multiple of the ranks: then the first ones are repeated.

    Args:
        mixture: What is drawn in an epoch.
        bounds: Sizes and bounds of all structures of the mixture.
        num_ranks: Processes that train together; each takes every `num_ranks`-th batch.

    Raises:
        InputError: Fewer draws in an epoch than ranks.
    """

    def __init__(self, mixture: Mixture, *, bounds: Bounds, num_ranks: int) -> None:
        if mixture.num_draws < num_ranks:
            raise InputError(
                f"{mixture.num_draws} training structures an epoch cannot feed {num_ranks} processes; "
                f"allowed: at most {mixture.num_draws} processes"
            )
        self._mixture = mixture
        self._bounds = bounds
        self.num_ranks = num_ranks
        first = self._pack(mixture.epoch(0))
        self.num_steps = -(-len(first) // num_ranks)
        self._first = self._equalise(first)
        self._planned: tuple[int, list[Batch]] = (0, self._first)

    def batches(self, epoch: int) -> list[Batch]:
        """All batches of an epoch; step s of rank r is number `s * num_ranks + r`."""
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def batch(self, *, epoch: int, step: int, rank: int) -> Batch:
        """Structures of one batch."""
        return self.batches(epoch)[step * self.num_ranks + rank]

    def _plan(self, epoch: int) -> list[Batch]:
        count = self.num_steps * self.num_ranks
        batches = self._pack(self._mixture.epoch(epoch))
        if len(batches) > count:
            surplus = np.concatenate(batches[count:])
            placed = self._bounds.place(surplus, batches[:count], group_of=self._mixture.group_of)
            if placed is None:
                order = random_generator(self._mixture.seed, _REUSE_STREAM, epoch).permutation(count)
                return [self._first[place] for place in order]
            batches = placed
        return self._equalise(batches)

    def _pack(self, order: Int[np.ndarray, " draws"]) -> list[Batch]:
        """Batches of what may go together, in the order of their first structures."""
        batches: list[tuple[int, Batch]] = []
        groups = self._mixture.group_of(order)
        for group in np.unique(groups):
            places, start = np.flatnonzero(groups == group), 0
            for batch in self._bounds.pack(order[places]):
                batches.append((int(places[start]), batch))
                start += len(batch)
        return [batch for _, batch in sorted(batches, key=lambda item: item[0])]

    def _equalise(self, batches: list[Batch]) -> list[Batch]:
        count = self.num_steps * self.num_ranks
        batches = self._bounds.split(batches, count)
        return batches + batches[: count - len(batches)]


def evaluation_batches(structures: Int[np.ndarray, " structures"], *, bounds: Bounds, num_ranks: int) -> list[Batch]:
    """Batches in the given order, each structure once; as many for every rank where there are structures enough."""
    batches = bounds.pack(structures)
    return bounds.split(batches, -(-len(batches) // num_ranks) * num_ranks)
