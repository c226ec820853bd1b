"""Mixtures: what one epoch is, fair passes, and contradictory shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.data.mixture import Mixture, MixtureConfig
from foundation.errors import InputError

SIZES = {"large": 90, "small": 10}


def mixture(
    sizes: dict[str, int],
    *,
    weights: dict[str, float] | None = None,
    config: MixtureConfig | None = None,
    seed: int = 0,
) -> Mixture:
    return Mixture(sizes, weights=weights or {}, config=config or MixtureConfig(), seed=seed)


def test_an_epoch_is_one_pass_over_the_union_unless_shares_are_set() -> None:
    mixed = mixture(SIZES)
    for epoch in range(3):
        assert sorted(mixed.epoch(epoch).tolist()) == list(range(100))
    assert "one pass" in mixed.description


def test_order_depends_on_seed_and_epoch_only() -> None:
    assert np.array_equal(mixture(SIZES).epoch(2), mixture(SIZES).epoch(2))
    assert not np.array_equal(mixture(SIZES).epoch(1), mixture(SIZES).epoch(2))
    assert not np.array_equal(mixture(SIZES).epoch(1), mixture(SIZES, seed=1).epoch(1))


def test_data_sets_are_mixed_within_the_epoch_not_one_after_the_other() -> None:
    first_half = mixture({"a": 500, "b": 500}).epoch(0)[:500]
    assert 150 < (first_half < 500).sum() < 350


def test_weights_share_the_draws_out() -> None:
    mixed = mixture(SIZES, weights={"large": 1.0, "small": 3.0})
    assert mixed.draws == {"large": 25, "small": 75}
    epoch = mixed.epoch(0)
    assert len(epoch) == 100
    assert (epoch >= 90).sum() == 75


@pytest.mark.parametrize(("temperature", "draws"), [(1.0, [90, 10]), (2.0, [75, 25]), (1e6, [50, 50])])
def test_temperature_flattens_the_shares(temperature: float, draws: list[int]) -> None:
    assert list(mixture(SIZES, config=MixtureConfig(temperature=temperature)).draws.values()) == draws


def test_epoch_draws_sets_the_length_of_an_epoch() -> None:
    mixed = mixture(SIZES, config=MixtureConfig(temperature=1.0, epoch_draws=40))
    assert mixed.num_draws == len(mixed.epoch(0)) == 40


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.2, 5.0), min_size=4, max_size=4),
    draws=st.integers(40, 80),
    epochs=st.integers(1, 4),
)
def test_every_structure_of_a_data_set_is_drawn_equally_often(
    sizes: list[int], shares: list[float], draws: int, epochs: int
) -> None:
    names = [f"set{place}" for place in range(len(sizes))]
    mixed = mixture(
        dict(zip(names, sizes, strict=True)),
        weights=dict(zip(names, shares, strict=False)),
        config=MixtureConfig(epoch_draws=draws),
    )
    assert mixed.num_draws == draws
    drawn = np.bincount(np.concatenate([mixed.epoch(epoch) for epoch in range(epochs)]), minlength=sum(sizes))
    for part in np.split(drawn, np.cumsum(sizes)[:-1]):
        assert part.max() - part.min() <= 1


def test_a_data_set_that_would_never_be_drawn_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'small'.*none of 10 draws.*epoch_draws"):
        mixture(SIZES, weights={"large": 1000.0, "small": 1.0}, config=MixtureConfig(epoch_draws=10))


def test_weights_are_given_for_all_data_sets_or_for_none() -> None:
    with pytest.raises(InputError, match=r"data\.large\.weight: missing"):
        mixture(SIZES, weights={"small": 1.0})


def test_weights_and_temperature_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"mixture\.temperature and data\.large\.weight"):
        mixture(SIZES, weights={"large": 1.0, "small": 1.0}, config=MixtureConfig(temperature=2.0))


def test_epoch_draws_without_shares_is_an_error() -> None:
    with pytest.raises(InputError, match="epoch_draws"):
        mixture(SIZES, config=MixtureConfig(epoch_draws=10))
