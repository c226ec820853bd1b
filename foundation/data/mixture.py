"""How data sets are mixed: how many draws each gets in an epoch, and which structures they are.

Draws are a pure function of (seed, epoch). A data set is gone through in shuffled passes without replacement that carry
on from epoch to epoch, so every structure is seen equally often, however small its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Int

from foundation.config import Config
from foundation.errors import InputError

_PASS_STREAM, _ORDER_STREAM = 1, 2


class MixtureConfig(Config):
    """What one epoch is.

    With neither `temperature` nor weights (`data.NAME.weight`), one epoch is one pass over the union of all training
    sets. With either, one epoch is `epoch_draws` draws, shared out between the data sets.

    Attributes:
        temperature: Shares go as size^(1/temperature): 1 is by size, large values tend to equal shares.
        epoch_draws: Draws in an epoch; as many as the union has structures if not set.
        batches: `mixed` draws the structures of a batch from all data sets; `separate` makes batches of one data set
            each, in random order: no padding of molecules to the neighbours of crystals, and as many optimizer steps
            for each data set as it would have alone.
    """

    temperature: float | None = pydantic.Field(default=None, ge=1.0)
    epoch_draws: int | None = pydantic.Field(default=None, ge=1)
    batches: Literal["mixed", "separate"] = "mixed"


class Mixture:
    """Several training sets as one stream of draws.

    A structure of the mixture is numbered by its place in the concatenation of the training sets.

    Args:
        sizes: Data set -> number of training structures, in the order of the mixture.
        weights: Data set -> its share relative to the others; None where it has none.
        config: What one epoch is.
        seed: Same seed, same draws.

    Raises:
        InputError: Only some data sets have a weight, or weights and a temperature are both set; a data set whose share
            of an epoch is less than one draw; `epoch_draws` without shares.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, weights: Mapping[str, float | None], config: MixtureConfig, seed: int
    ) -> None:
        assert sizes, "a mixture of nothing"
        assert min(sizes.values()) > 0, "empty data sets are refused when they are split"
        self.sizes = dict(sizes)
        self.seed = seed
        self.separate = config.batches == "separate" and len(sizes) > 1
        self._offsets = np.concatenate([[0], np.cumsum(list(sizes.values()))])
        shares = _shares(self.sizes, weights, config)
        if shares is None:
            self.draws = dict(self.sizes)
            self.description = "one epoch is one pass over all training structures"
        else:
            total = config.epoch_draws or sum(self.sizes.values())
            self.draws = dict(zip(self.sizes, _quotas(shares, total), strict=True))
            _check_draws(self.draws, shares, total)
            parts = ", ".join(f"{name} {count}" for name, count in self.draws.items())
            self.description = f"one epoch is {total} draws: {parts}"
        if self.separate:
            self.description += "; each batch of one data set"

    @property
    def num_draws(self) -> int:
        """Draws in one epoch, the same in every epoch."""
        return sum(self.draws.values())

    def epoch(self, epoch: int) -> Int[np.ndarray, " draws"]:
        """Structures of one epoch in training order."""
        parts = [
            self._offsets[place] + self._passes(place, size, first=epoch * count, count=count)
            for place, (size, count) in enumerate(zip(self.sizes.values(), self.draws.values(), strict=True))
        ]
        draws = np.concatenate(parts)
        return draws[random_generator(self.seed, _ORDER_STREAM, epoch).permutation(len(draws))]

    def group_of(self, structures: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """A number for each structure: those with the same number may share a batch."""
        if not self.separate:
            return np.zeros(len(structures), dtype=np.int64)
        return np.searchsorted(self._offsets, structures, side="right") - 1

    def _passes(self, place: int, size: int, *, first: int, count: int) -> Int[np.ndarray, " draws"]:
        """Draws `first` to `first + count` of the endless sequence of shuffled passes over one data set."""
        last = first + count
        permutations = [
            random_generator(self.seed, _PASS_STREAM, place, number).permutation(size)
            for number in range(first // size, -(-last // size))
        ]
        if not permutations:
            return np.empty(0, dtype=np.int64)
        start = first // size * size
        return np.concatenate(permutations)[first - start : last - start]


def random_generator(*key: int) -> np.random.Generator:
    """A stream of random numbers of its own for every key (non-negative integers)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _shares(sizes: Mapping[str, int], weights: Mapping[str, float | None], config: MixtureConfig) -> list[float] | None:
    weighted = {name: weight for name in sizes if (weight := weights.get(name)) is not None}
    if weighted and config.temperature is not None:
        raise InputError(
            f"mixture.temperature and data.{next(iter(weighted))}.weight both set the shares of the data sets; "
            "allowed: one of them"
        )
    if weighted:
        without = [name for name in sizes if name not in weighted]
        if without:
            raise InputError(
                [f"data.{name}.weight: missing; allowed: a weight for every data set or for none" for name in without]
            )
        return [weighted[name] for name in sizes]
    if config.temperature is not None:
        return [size ** (1.0 / config.temperature) for size in sizes.values()]
    if config.epoch_draws is not None:
        raise InputError(
            "mixture.epoch_draws: needs mixture.temperature or weights of the data sets; without them an epoch is one "
            "pass over all data"
        )
    return None


def _check_draws(draws: Mapping[str, int], shares: Sequence[float], total: int) -> None:
    problems = [
        f"mixture: data set '{name}' has a share of {share:g} of {sum(shares):g}, which is none of {total} draws an "
        "epoch; raise mixture.epoch_draws or its weight"
        for (name, count), share in zip(draws.items(), shares, strict=True)
        if count == 0
    ]
    if problems:
        raise InputError(problems)


def _quotas(shares: Sequence[float], total: int) -> list[int]:
    """Share `total` draws out by largest remainder."""
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(-(exact - counts), kind="stable")[:missing]] += 1
    return counts.tolist()
