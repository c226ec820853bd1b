"""Batches: bounds hold, nothing is lost or repeated, every rank takes the same number of steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foundation.config import validate
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.sampler import BatchConfig, Bounds, TrainingBatches, evaluation_batches
from foundation.errors import InputError

SIZES = st.lists(st.integers(1, 12), min_size=4, max_size=60)


def bounds(sizes: list[int], config: BatchConfig) -> Bounds:
    """Structures whose atoms all neighbour each other, themselves included."""
    num_atoms = np.array(sizes)
    neighbors = np.stack([num_atoms**2, num_atoms], axis=1)
    return Bounds(config, num_atoms=num_atoms, num_neighbors=neighbors, name=lambda place: f"mine.xyz frame {place}")


def training(sizes: list[int], config: BatchConfig, *, ranks: int = 1, seed: int = 0) -> TrainingBatches:
    mixture = Mixture({"mine": len(sizes)}, weights={}, config=MixtureConfig(), seed=seed)
    return TrainingBatches(mixture, bounds=bounds(sizes, config), num_ranks=ranks)


@given(
    sizes=SIZES,
    structures=st.integers(1, 9),
    atoms=st.integers(12, 40),
    edges=st.integers(144, 400),
    ranks=st.integers(1, 4),
    slots=st.integers(144, 400),
    packing=st.sampled_from(["in_order", "full", "similar"]),
    seed=st.integers(0, 5),
)
def test_bounds_hold_and_every_epoch_is_one_pass_in_equal_steps(
    sizes: list[int], structures: int, atoms: int, edges: int, slots: int, packing: str, ranks: int, seed: int
) -> None:
    limits = {"max_structures": structures, "max_atoms": atoms, "max_edges": edges, "max_slots": slots}
    config = validate(BatchConfig, {**limits, "packing": packing}, where="test")
    mixture = Mixture({"mine": len(sizes)}, weights={}, config=MixtureConfig(), seed=seed)
    assume(len(bounds(sizes, config).pack(mixture.epoch(0))) >= ranks)
    plan = training(sizes, config, ranks=ranks, seed=seed)
    counts = np.array(sizes)
    for epoch in range(4):
        batches = plan.batches(epoch)
        assert len(batches) == plan.num_steps * ranks
        for batch in batches:
            assert 1 <= len(batch) <= structures
            assert counts[batch].sum() <= atoms
            assert (counts[batch] ** 2).sum() <= edges
            assert counts[batch].sum() * counts[batch].max() <= slots
        drawn = np.bincount(np.concatenate(batches), minlength=len(sizes))
        assert drawn.min() == 1
        assert drawn.sum() - len(sizes) < ranks
        if drawn.max() > 1:
            assert all(len(batch) == 1 for batch in batches), "repeated although a batch could have been halved"


@given(sizes=SIZES, ranks=st.integers(1, 3), epoch=st.integers(0, 5))
def test_a_batch_depends_on_seed_epoch_step_and_rank_only(sizes: list[int], ranks: int, epoch: int) -> None:
    config = BatchConfig(max_structures=2, max_atoms=20, packing="full" if len(sizes) % 2 else "in_order")
    assume(len(sizes) >= 2 * ranks)
    gone_through = training(sizes, config, ranks=ranks)
    for earlier in range(epoch):
        gone_through.batches(earlier)
    asked_directly = training(sizes, config, ranks=ranks)
    for step in reversed(range(asked_directly.num_steps)):
        for rank in range(ranks):
            direct = asked_directly.batch(epoch=epoch, step=step, rank=rank)
            assert np.array_equal(direct, gone_through.batches(epoch)[step * ranks + rank])


@given(sizes=SIZES, other=SIZES, ranks=st.integers(1, 3), seed=st.integers(0, 5))
def test_separate_batches_hold_one_data_set_each_and_lose_nothing(
    sizes: list[int], other: list[int], ranks: int, seed: int
) -> None:
    config = BatchConfig(max_structures=5, max_atoms=20)
    mixture = Mixture(
        {"mine": len(sizes), "other": len(other)}, weights={}, config=MixtureConfig(batches="separate"), seed=seed
    )
    counts = np.array(sizes + other)
    places = np.arange(len(counts))
    batches = [bounds(sizes + other, config).pack(part) for part in (places[: len(sizes)], places[len(sizes) :])]
    assume(sum(map(len, batches)) > ranks)
    plan = TrainingBatches(mixture, bounds=bounds(sizes + other, config), num_ranks=ranks)
    order = []
    for epoch in range(4):
        batches = plan.batches(epoch)
        assert len(batches) == plan.num_steps * ranks
        for batch in batches:
            assert len(set(batch >= len(sizes))) == 1
            assert counts[batch].sum() <= 20
        drawn = np.bincount(np.concatenate(batches), minlength=len(counts))
        assert drawn.min() == 1
        assert drawn.sum() - len(counts) < ranks
        order.append([bool(batch[0] >= len(sizes)) for batch in batches])
    if min(len(sizes), len(other)) > 20:
        assert any(one != sorted(one) for one in order), "data sets should alternate"


def test_batches_are_as_full_as_the_bounds_allow() -> None:
    plan = training([3] * 950, BatchConfig(max_structures=8))
    assert plan.num_steps == 119
    assert sorted(len(batch) for batch in plan.batches(0)) == [6] + [8] * 118


def test_epochs_that_pack_worse_than_the_first_still_lose_nothing() -> None:
    """Sixes and fours fit in pairs only: the number of batches of a random order varies."""
    sizes = [6, 4] * 20
    needed = []
    for seed in range(8):
        plan = training(sizes, BatchConfig(max_structures=10, max_atoms=10), seed=seed)
        for epoch in range(8):
            batches = plan.batches(epoch)
            assert sorted(np.concatenate(batches).tolist()) == list(range(40))
            assert len(batches) == plan.num_steps
        needed.append(plan.num_steps)
    assert len(set(needed)) > 1, "every order packs equally well: the test does not test"


def test_where_the_surplus_of_an_epoch_finds_no_room_the_first_epochs_batches_come_in_a_new_order() -> None:
    sizes = [7, 2, 6, 3, 5, 5, 8, 1, 9, 4] * 3
    reused = 0
    for seed in range(30):
        plan = training(sizes, BatchConfig(max_structures=10, max_atoms=10), seed=seed)
        first = {tuple(sorted(batch.tolist())) for batch in plan.batches(0)}
        for epoch in range(1, 6):
            batches = plan.batches(epoch)
            assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
            reused += {tuple(sorted(batch.tolist())) for batch in batches} == first
    assert reused > 0, "the case does not occur: the test does not test"


def test_ranks_that_cannot_share_evenly_repeat_the_first_structures() -> None:
    plan = training([2, 2, 2], BatchConfig(max_structures=1), ranks=2)
    assert plan.num_steps == 2
    assert sorted(np.concatenate(plan.batches(0)).tolist()) in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2])


@pytest.mark.parametrize("packing", ["in_order", "full", "similar"])
def test_a_batch_of_an_epoch_far_away_is_found_without_those_before(packing: str) -> None:
    """Going through 10¹² epochs would never end."""
    config = validate(BatchConfig, {"max_structures": 3, "max_slots": 400, "packing": packing}, where="batch")
    plan = training([3, 5, 8, 2, 9, 4, 7, 6], config, ranks=2)
    again = training([3, 5, 8, 2, 9, 4, 7, 6], config, ranks=2)
    far = plan.batch(epoch=10**12, step=1, rank=1)
    assert far.tolist() == again.batch(epoch=10**12, step=1, rank=1).tolist()
    assert sorted(np.concatenate(plan.batches(10**12)).tolist()) == list(range(8))


def test_batches_of_one_step_are_equal_in_atoms_too() -> None:
    """Few atoms of many neighbours have as many slots as many atoms of few, and take less time."""
    config = BatchConfig(max_structures=100, max_slots=100, packing="similar")
    num_atoms, most = np.repeat([2, 10, 2, 10], 10), np.repeat([50, 10, 50, 10], 10)
    sized = Bounds(config, num_atoms=num_atoms, num_neighbors=np.stack([num_atoms * most, most], axis=1), name=str)
    mixture = Mixture({"mine": len(num_atoms)}, weights={}, config=MixtureConfig(), seed=0)
    plan = TrainingBatches(mixture, bounds=sized, num_ranks=2)
    for step in range(plan.num_steps):
        atoms = [num_atoms[plan.batch(epoch=0, step=step, rank=rank)].sum() for rank in range(2)]
        assert atoms[0] == atoms[1]


def test_more_ranks_than_structures_is_an_error() -> None:
    with pytest.raises(InputError, match="3 training structures an epoch are 3 batches, which cannot feed 4 processes"):
        training([2, 2, 2], BatchConfig(max_structures=1), ranks=4)


def test_more_ranks_than_batches_is_an_error() -> None:
    with pytest.raises(InputError, match="are 2 batches, which cannot feed 4 processes; allowed: at most 2 processes"):
        training([2] * 16, BatchConfig(max_structures=8), ranks=4)


@pytest.mark.parametrize("packing", ["full", "similar"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_no_batch_of_structures_of_3_and_400_atoms_is_above_the_bounds(packing: str, ranks: int) -> None:
    """And the processes have about as much to do in every step, of the bound that binds."""
    random = np.random.default_rng(0)
    sizes = random.choice([3, 400], size=3000, p=[0.8, 0.2])
    degrees = np.where(sizes == 3, 2, random.integers(40, 60, size=len(sizes)))
    neighbors = np.stack([sizes * degrees - random.integers(0, 3, size=len(sizes)), degrees], axis=1)
    limits = {"max_structures": 4096, "max_atoms": 4000, "max_edges": 140_000, "max_slots": 160_000}
    config = validate(BatchConfig, {**limits, "packing": packing}, where="test")
    sized = Bounds(config, num_atoms=sizes, num_neighbors=neighbors, name=str)
    mixture = Mixture({"mine": len(sizes)}, weights={}, config=MixtureConfig(), seed=0)
    plan = TrainingBatches(mixture, bounds=sized, num_ranks=ranks)
    for epoch in range(4):
        batches = plan.batches(epoch)
        assert len(batches) == plan.num_steps * ranks
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
        for batch in batches:
            assert sizes[batch].sum() <= 4000
            assert neighbors[batch, 0].sum() <= 140_000
            assert sizes[batch].sum() * degrees[batch].max() <= 160_000
        costs = np.array([sized.cost(batch) for batch in batches]).reshape(plan.num_steps, ranks)
        assert costs.sum() / (ranks * costs.max(axis=1).sum()) > 0.95


@pytest.mark.parametrize("packing", ["in_order", "full", "similar"])
def test_no_batch_takes_more_slots_or_atoms_than_the_fullest(packing: str) -> None:
    random = np.random.default_rng(0)
    num_atoms = np.where(random.random(4000) < 0.05, 400, 3)
    neighbors = np.where(num_atoms == 3, 2, random.integers(30, 43, 4000))
    limits = {"max_structures": 4096, "max_atoms": 1200, "max_slots": 40_000, "packing": packing}
    sizes = Bounds(
        validate(BatchConfig, limits, where="test"),
        num_atoms=num_atoms,
        num_neighbors=np.stack([num_atoms * neighbors, neighbors], axis=1),
        name=str,
    )
    mixture = Mixture({"mine": 4000}, weights={}, config=MixtureConfig(), seed=0)
    plan = TrainingBatches(mixture, bounds=sizes, num_ranks=1)

    def most(batches: list[np.ndarray]) -> tuple[int, int]:
        atoms = [int(num_atoms[batch].sum()) for batch in batches]
        slots = [int(num_atoms[batch].sum() * neighbors[batch].max()) for batch in batches]
        assert max(atoms) <= 1200
        assert max(slots) <= 40_000
        return max(atoms), max(slots)

    atoms, slots = most(plan.fullest(0))
    for epoch in range(10):
        found = most(plan.batches(epoch))
        assert found[0] <= atoms
        assert found[1] <= 1.003 * slots, "three atoms more or less"


def test_where_only_the_number_of_structures_is_bounded_the_costliest_of_the_epoch_is_the_fullest() -> None:
    plan = training([1, 2, 3, 9, 4, 5], BatchConfig(max_structures=2))
    (batch,) = plan.fullest(0)
    assert 3 in batch


def test_full_batches_are_fewer_than_those_in_order_and_similar_ones_have_fewer_empty_slots() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(5, 60, size=2000)
    degrees = random.integers(10, 50, size=2000)
    neighbors = np.stack([sizes * degrees // 2, degrees], axis=1)

    def plan(packing: str) -> tuple[int, int]:
        limits = {"max_structures": 999, "max_atoms": 300, "max_slots": 12_000, "packing": packing}
        sized = Bounds(validate(BatchConfig, limits, where="test"), num_atoms=sizes, num_neighbors=neighbors, name=str)
        batches = sized.pack(random.permutation(2000))
        return len(batches), sum(int(sizes[batch].sum() * degrees[batch].max()) for batch in batches)

    (in_order, _), (full, full_slots), (_, similar_slots) = (plan(kind) for kind in ("in_order", "full", "similar"))
    assert full < 0.96 * in_order
    assert similar_slots < 1.05 * (sizes * degrees).sum() < full_slots


def test_similar_packing_needs_the_bound_that_it_is_about() -> None:
    with pytest.raises(InputError, match="set max_slots"):
        validate(BatchConfig, {"max_structures": 8, "packing": "similar"}, where="recipe")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BatchConfig(max_structures=8, max_atoms=9), r"mine\.xyz frame 1: 10 atoms alone.*batch\.max_atoms is 9.*10"),
        (BatchConfig(max_structures=8, max_slots=99), r"mine\.xyz frame 1: 100 slots alone.*batch\.max_slots is 99"),
        (BatchConfig(max_structures=8, max_edges=99), r"mine\.xyz frame 1: 100 edges alone.*batch\.max_edges is 99"),
    ],
)
def test_a_structure_above_a_bound_is_named_with_the_bound(config: BatchConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bounds([3, 10, 5], config)


def test_a_structure_exactly_at_the_bound_is_a_batch() -> None:
    batches = training([10, 10], BatchConfig(max_structures=8, max_atoms=10, max_edges=100)).batches(0)
    assert [len(batch) for batch in batches] == [1, 1]


def test_many_structures_above_a_bound_are_counted_not_listed() -> None:
    with pytest.raises(InputError) as caught:
        bounds([20] * 100, BatchConfig(max_structures=8, max_atoms=10))
    assert len(caught.value.problems) == 6
    assert "95 more" in caught.value.problems[-1]


@given(sizes=SIZES, ranks=st.integers(1, 4))
def test_evaluation_takes_every_structure_once_and_in_order(sizes: list[int], ranks: int) -> None:
    config = BatchConfig(max_structures=6, max_atoms=20)
    batches = evaluation_batches(np.arange(len(sizes)), bounds=bounds(sizes, config), num_ranks=ranks)
    assert np.concatenate(batches).tolist() == list(range(len(sizes)))
    assert all(np.array(sizes)[batch].sum() <= 20 for batch in batches)
    assert len(batches) % ranks == 0 or all(len(batch) == 1 for batch in batches)


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="max_structures"):
        validate(BatchConfig, {"max_structures": 0}, where="recipe")


@given(sizes=SIZES, share=st.integers(1, 3), seed=st.integers(0, 5))
def test_a_stated_global_batch_holds_the_same_structures_on_any_number_of_ranks(
    sizes: list[int], share: int, seed: int
) -> None:
    total = 4 * share
    rest = len(sizes) % total
    assume(len(sizes) >= total and (rest == 0 or rest >= 4))  # else a step cannot feed four ranks
    config = validate(BatchConfig, {"max_structures": total, "global_structures": total}, where="test")
    plans = {
        ranks: training(sizes, config.shared(num_ranks=ranks, accumulated=1), ranks=ranks, seed=seed)
        for ranks in (1, 2, 4)
    }
    for epoch in (0, 1, 5):
        alone = [sorted(batch.tolist()) for batch in plans[1].batches(epoch)]
        for ranks, plan in plans.items():
            dealt = plan.batches(epoch)
            steps = [dealt[start : start + ranks] for start in range(0, len(dealt), ranks)]
            assert [sorted(np.concatenate(step).tolist()) for step in steps] == alone
            assert plan.digest(epoch) == plans[1].digest(epoch)
