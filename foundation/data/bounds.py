"""Bounds of one batch, and cutting a sequence of structures into batches that keep them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Int

from foundation.config import Config
from foundation.errors import InputError

Batch = Int[np.ndarray, " _"]
"""Structures of one batch; the lengths of batches differ."""

ATOM_SLOTS = 12
"""Slots that take as long as what is done once an atom: 9.5 in CPU time, 18 in operations of matrix products, training
steps of the smallest equivariant backbone (`benchmarks/README.md`). It decides which batches share a step, no bound."""
_LOOKAHEAD = 256
"""Structures behind a batch's last that are looked at for one that still has room in it."""
_BLOCK = 4096
_Piece = tuple[int, tuple[int, ...], Batch]
"""Minus its atoms, its place among the batches, the batch itself."""


class BatchConfig(Config):
    """Upper bounds of one batch on one device. A bound that is not set does not bind.

    Attributes:
        max_structures: Structures in a batch.
        max_atoms: Atoms in a batch.
        max_edges: Directed edges within the cutoff in a batch: memory of backbones that read the list of edges goes
            with these.
        max_slots: Atoms times the most neighbours of any of them: memory of backbones that read the padded table of
            neighbours goes with these.
        global_structures: Structures of one optimizer step, over all processes and accumulated batches. Each batch
            holds its share, or less where another bound says so; `max_structures` bounds the share. With it a run goes
            on with another number of processes.
        packing: `in_order` cuts the shuffled structures into consecutive batches. `full` tops each batch up with
            structures from further behind. `similar` puts structures with about as many neighbours together, so that
            the padded table has few empty slots; it needs `max_slots`. With both, processes take batches of about
            equal cost in the same step, so that none waits for another.
    """

    max_structures: int = pydantic.Field(ge=1)
    max_atoms: int | None = pydantic.Field(default=None, ge=1)
    max_edges: int | None = pydantic.Field(default=None, ge=1)
    max_slots: int | None = pydantic.Field(default=None, ge=1)
    global_structures: int | None = pydantic.Field(default=None, ge=1)
    packing: Literal["in_order", "full", "similar"] = "in_order"

    @pydantic.model_validator(mode="after")
    def _check(self) -> BatchConfig:
        if self.packing == "similar" and self.max_slots is None:
            raise InputError(
                "packing: similar puts structures together by their neighbours; set max_slots, their bound"
            )
        return self

    def shared(self, *, num_ranks: int, accumulated: int) -> BatchConfig:
        """The bounds of one batch where `global_structures` is dealt out.

        Args:
            num_ranks: Processes that train together.
            accumulated: Batches of each of them in one optimizer step.

        Raises:
            InputError: It cannot be dealt out evenly, or a share is above `max_structures`.
        """
        total, parts = self.global_structures, num_ranks * accumulated
        if total is None:
            return self
        where = f"batch.global_structures: {total} structures in a step of {num_ranks} processes"
        if accumulated > 1:
            where += f" with {accumulated} accumulated batches"
        if total % parts:
            near = [str(multiple) for multiple in (total // parts * parts, -(-total // parts) * parts) if multiple]
            raise InputError(
                f"{where} cannot be divided by {parts}; allowed: a multiple of {parts}, such as {' or '.join(near)}, "
                "or other trainer.devices, trainer.num_nodes, trainer.accumulate_grad_batches"
            )
        share = total // parts
        if share > self.max_structures:
            raise InputError(
                f"{where} are {share} in a batch, above batch.max_structures ({self.max_structures}); allowed: "
                f"trainer.accumulate_grad_batches={-(-total // (num_ranks * self.max_structures))}, more processes, "
                "or a larger batch.max_structures if memory suffices"
            )
        return self.model_copy(update={"max_structures": share})

    @property
    def counts_neighbors(self) -> bool:
        """Whether the neighbours of every structure have to be counted."""
        return self.max_edges is not None or self.max_slots is not None


class Bounds:
    """The sizes of all structures against the bounds of a batch.

    Args:
        config: The bounds.
        num_atoms: Of each structure.
        num_neighbors: Edges of each structure, and the most that one of its atoms has; needed only where `max_edges` or
            `max_slots` is set.
        name: What to call structure i in an error.

    Raises:
        InputError: A structure alone is above a bound.
    """

    def __init__(
        self,
        config: BatchConfig,
        *,
        num_atoms: Int[np.ndarray, " structures"],
        num_neighbors: Int[np.ndarray, "structures 2"] | None,
        name: Callable[[int], str],
    ) -> None:
        self.config = config
        self.num_atoms = np.asarray(num_atoms)
        assert num_neighbors is not None or not config.counts_neighbors, "the neighbours were not counted"
        self._edges = None if num_neighbors is None else num_neighbors[:, 0]
        self._degrees = None if num_neighbors is None or config.max_slots is None else num_neighbors[:, 1]
        self._sums: list[tuple[np.ndarray | None, int]] = [(None, config.max_structures)]
        problems: list[str] = []
        if config.max_atoms is not None:
            problems += _too_large(self.num_atoms, config.max_atoms, "atoms", name)
            self._sums.append((self.num_atoms, config.max_atoms))
        if config.max_edges is not None and self._edges is not None:
            problems += _too_large(self._edges, config.max_edges, "edges", name)
            self._sums.append((self._edges, config.max_edges))
        if config.max_slots is not None and self._degrees is not None:
            slots = self.num_atoms * self._degrees.astype(np.int64)
            problems += _too_large(slots, config.max_slots, "slots", name)
        if problems:
            raise InputError(problems)

    def cost(self, batch: Batch) -> int:
        """What the time of a step goes with: slots and atoms where slots are bounded, else edges, else atoms."""
        if self._degrees is not None:
            return int(self.num_atoms[batch].sum()) * (int(self._degrees[batch].max()) + ATOM_SLOTS)
        return int((self.num_atoms if self._edges is None else self._edges)[batch].sum())

    def pack(self, order: Int[np.ndarray, " draws"]) -> list[Batch]:
        """Cut a sequence of structures into batches, each as long as the bounds allow, as `packing` says."""
        if self.config.packing == "similar":
            assert self._degrees is not None
            order = order[np.argsort(-self._degrees[order], kind="stable")]
        top_up = self.config.packing != "in_order"
        batches, start = [], 0
        waiting = order[:0]
        while start < len(order) or len(waiting):
            if len(waiting) < _BLOCK and start < len(order):
                waiting = np.concatenate([waiting, order[start : start + _BLOCK]])
                start += _BLOCK
            end = self._longest(waiting)
            if end == len(waiting) and start < len(order):
                more = order[start : start + len(waiting)]
                waiting, start = np.concatenate([waiting, more]), start + len(more)
                continue
            batch, waiting = waiting[:end], waiting[end:]
            if top_up:
                batch, waiting = self._topped_up(batch, waiting)
            batches.append(batch)
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
        room = _Room(self, batches)
        added: dict[int, list[int]] = {}
        for structure in structures[np.argsort(-self.num_atoms[structures], kind="stable")]:
            fits = room.fits(structure) & (groups == group_of(np.array([structure]))[0])
            if not fits.any():
                return None
            chosen = int(fits.argmax())
            added.setdefault(chosen, []).append(int(structure))
            room.add(chosen, structure)
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

    def fullest(self, structures: Batch) -> list[Batch]:
        """Batches of some structures that come about as near to the bounds as any.

        One begins with the structure that has the most neighbours and so the widest table, one with the least, and one
        with the structure whose table is full when the bound of atoms is reached too.

        Returns:
            Nothing where the number of structures is all that is bounded: no batch of an epoch may be near the largest.
        """
        if self.config.max_slots is None and (self.config.max_atoms is None or self.config.max_edges is None):
            return []
        degrees = self.num_atoms if self._edges is None else self._edges / np.maximum(self.num_atoms, 1)
        degrees = degrees if self._degrees is None else self._degrees
        largest = structures[np.argsort(-self.num_atoms[structures], kind="stable")[:_BLOCK]]
        wanted = [degrees.max(), degrees.min()]
        if self.config.max_slots is not None and self.config.max_atoms is not None:
            wanted.append(self.config.max_slots / self.config.max_atoms)
        found = []
        for degree in wanted:
            first = structures[np.abs(degrees[structures] - degree).argmin()]
            batch, left = np.array([first]), largest[largest != first]
            narrow = left[degrees[left] <= degrees[first]]
            for others in (narrow, left[degrees[left] > degrees[first]]):
                batch, _ = self._topped_up(batch, others, lookahead=len(others))
            found.append(batch)
        return found

    def _longest(self, order: Batch) -> int:
        """How many of the first structures fit into one batch."""
        end = len(order)
        for sizes, bound in self._sums:
            total = np.arange(1, len(order) + 1) if sizes is None else np.cumsum(sizes[order], dtype=np.int64)
            end = min(end, int(np.searchsorted(total, bound, side="right")))
        if self._degrees is not None:
            slots = np.cumsum(self.num_atoms[order], dtype=np.int64) * np.maximum.accumulate(self._degrees[order])
            end = min(end, int(np.searchsorted(slots, self.config.max_slots or 0, side="right")))
        return end

    def _topped_up(self, batch: Batch, waiting: Batch, *, lookahead: int = _LOOKAHEAD) -> tuple[Batch, Batch]:
        """Take the largest of the structures that come next which still have room, as long as there are any."""
        ahead = waiting[:lookahead]
        room = _Room(self, [batch])
        free = np.ones(len(ahead), dtype=bool)
        chosen: list[int] = []
        sizes = self.num_atoms[ahead] if self._edges is None else self._edges[ahead]
        while True:
            fits = free & room.fits(ahead)
            if not fits.any():
                break
            place = int(np.where(fits, sizes, -1).argmax())
            free[place] = False
            chosen.append(place)
            room.add(0, ahead[place])
        if not chosen:
            return batch, waiting
        return np.concatenate([batch, ahead[chosen]]), np.concatenate([ahead[free], waiting[lookahead:]])


class _Room:
    """What batches hold so far, against the bounds.

    Args:
        bounds: Sizes and bounds.
        batches: None of them empty.
    """

    def __init__(self, bounds: Bounds, batches: list[Batch]) -> None:
        self._bounds = bounds
        self._used = [
            np.array([len(batch) if sizes is None else sizes[batch].sum() for batch in batches])
            for sizes, _ in bounds._sums
        ]
        self._atoms = np.array([bounds.num_atoms[batch].sum() for batch in batches])
        degrees = bounds._degrees
        self._degree = None if degrees is None else np.array([degrees[batch].max() for batch in batches])

    def fits(self, structures: Batch | np.integer) -> Bool[np.ndarray, " _"]:
        """Whether one structure fits into each batch, or each of some structures into the only batch."""
        bounds = self._bounds
        fits = np.array(True)
        for (sizes, bound), used in zip(bounds._sums, self._used, strict=True):
            fits = fits & (used + (1 if sizes is None else sizes[structures]) <= bound)
        if self._degree is not None and bounds._degrees is not None:
            widest = np.maximum(self._degree, bounds._degrees[structures]).astype(np.int64)
            fits = fits & ((self._atoms + bounds.num_atoms[structures]) * widest <= (bounds.config.max_slots or 0))
        return fits

    def add(self, place: int, structure: np.integer) -> None:
        """Put a structure into a batch."""
        bounds = self._bounds
        for (sizes, _), used in zip(bounds._sums, self._used, strict=True):
            used[place] += 1 if sizes is None else sizes[structure]
        self._atoms[place] += bounds.num_atoms[structure]
        if self._degree is not None and bounds._degrees is not None:
            self._degree[place] = max(self._degree[place], bounds._degrees[structure])


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
