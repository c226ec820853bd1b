"""Batches bounded by structures, atoms, edges and slots, for every process of a run.

The batch is a pure function of (seed, epoch, step, rank): it does not depend on worker processes or on where a run was
interrupted. Every epoch has the same number of steps, and every rank takes all of them.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from jaxtyping import Int

from foundation.data.bounds import Batch, BatchConfig, Bounds
from foundation.data.mixture import Mixture, random_generator
from foundation.errors import InputError
from foundation.wording import counted

__all__ = ["Batch", "BatchConfig", "Bounds", "TrainingBatches", "evaluation_batches"]

_REUSE_STREAM, _STEP_STREAM = 3, 4
_SAMPLED_EPOCHS = 3
_SPARE = 0.01
"""Batches beyond those that the sampled epochs need: other epochs, packed full, need a few more or fewer."""


class TrainingBatches:
    """The training batches of every epoch, for every rank.

    The number of steps is that of epoch 0; with `packing` other than `in_order`, the most that the first epochs need
    and one in a hundred. Where another epoch's order packs into fewer batches, some are halved; where it packs into
    more, the surplus is put into batches with room, and if it does not fit, epoch 0's batches come in a new order.
    Nothing is dropped. Nothing is repeated either, unless every batch is down to one structure and their number is
    still no multiple of the ranks: then the first ones are repeated.

    Args:
        mixture: What is drawn in an epoch.
        bounds: Sizes and bounds of all structures of the mixture.
        num_ranks: Processes that train together; each takes every `num_ranks`-th batch.

    Raises:
        InputError: Fewer batches in an epoch than ranks.
    """

    def __init__(self, mixture: Mixture, *, bounds: Bounds, num_ranks: int) -> None:
        self._mixture = mixture
        self._bounds = bounds
        self.num_ranks = num_ranks
        first = self._pack(mixture.epoch(0))
        if len(first) < num_ranks:
            batches, processes = counted(len(first), "batch", "batches"), counted(len(first), "process", "processes")
            raise InputError(
                f"{mixture.num_draws} training structures an epoch are {batches}, which cannot feed "
                f"{num_ranks} processes; allowed: at most {processes}, or smaller batches"
            )
        count = len(first)
        if self._arranged:
            others = [len(self._pack(mixture.epoch(epoch))) for epoch in range(1, _SAMPLED_EPOCHS)]
            count = min(math.ceil(max(count, *others) * (1.0 + _SPARE)), mixture.num_draws)
        self.num_steps = -(-count // num_ranks)
        self._first = self._equalise(first, 0)
        self._planned: tuple[int, list[Batch]] = (0, self._first)
        self._digested: tuple[int, str] = (-1, "")

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
        return self._equalise(batches, epoch)

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

    def fullest(self, epoch: int) -> list[Batch]:
        """Batches that take as much memory as any: the costliest of an epoch, and what the bounds allow besides."""
        planned = self.batches(epoch)
        costs = [self._bounds.cost(batch) for batch in planned]
        found = [planned[int(np.argmax(costs))]]
        drawn = np.unique(np.concatenate(planned))
        groups = self._mixture.group_of(drawn)
        for group in np.unique(groups):
            found += self._bounds.fullest(drawn[groups == group])
        return found

    @property
    def _arranged(self) -> bool:
        """Whether batches of about equal cost come in one step, instead of the order of their structures."""
        return self._bounds.config.packing != "in_order"

    @property
    def description(self) -> str:
        """What is drawn in an epoch, for people."""
        return self._mixture.description

    def digest(self, epoch: int) -> str:
        """What all ranks together see in each step of an epoch, whichever of them sees it."""
        if self._digested[0] != epoch:
            batches, found = self.batches(epoch), hashlib.sha256()
            for start in range(0, len(batches), self.num_ranks):
                step = np.sort(np.concatenate(batches[start : start + self.num_ranks]))
                found.update(np.append(step, -1).astype(np.int64).tobytes())
            self._digested = (epoch, found.hexdigest()[:16])
        return self._digested[1]

    def _equalise(self, batches: list[Batch], epoch: int) -> list[Batch]:
        count = self.num_steps * self.num_ranks
        if not self._arranged:
            # Only the last step: the others hold the same structures on any number of ranks.
            whole = count - self.num_ranks
            last = self._bounds.split(batches[whole:], self.num_ranks)
            if len(last) == self.num_ranks:
                return batches[:whole] + last
        batches = self._bounds.split(batches, count)
        batches = batches + batches[: count - len(batches)]
        return self._arrange(batches, epoch) if self._arranged else batches

    def _arrange(self, batches: list[Batch], epoch: int) -> list[Batch]:
        """Batches of about equal cost to the ranks of one step, the steps in random order."""
        random = random_generator(self._mixture.seed, _STEP_STREAM, epoch)
        shuffled = random.permutation(len(batches))
        by_cost = shuffled[np.argsort([self._bounds.cost(batches[place]) for place in shuffled], kind="stable")]
        steps = by_cost.reshape(self.num_steps, self.num_ranks)[random.permutation(self.num_steps)]
        return [batches[place] for place in steps.reshape(-1)]


def evaluation_batches(structures: Int[np.ndarray, " structures"], *, bounds: Bounds, num_ranks: int) -> list[Batch]:
    """Batches in the given order, each structure once; as many for every rank where there are structures enough."""
    batches = bounds.pack(structures)
    return bounds.split(batches, -(-len(batches) // num_ranks) * num_ranks)
