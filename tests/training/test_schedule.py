"""Learning-rate schedules by steps."""

from __future__ import annotations

import math

import pytest

from foundation.errors import InputError
from foundation.training.schedule import ScheduleConfig, schedule_factor


def test_warm_up_rises_to_the_top_and_the_cosine_ends_at_the_stated_fraction() -> None:
    factor = schedule_factor(ScheduleConfig(kind="cosine", warmup_steps=10, final_fraction=0.1), 101)
    values = [factor(step) for step in range(101)]
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == 1
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert sorted(values[10:], reverse=True) == values[10:]
    assert factor(500) == pytest.approx(0.1)


def test_linear_and_constant() -> None:
    linear = schedule_factor(ScheduleConfig(kind="linear", warmup_steps=0, final_fraction=0.0), 11)
    assert [linear(step) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    constant = schedule_factor(ScheduleConfig(kind="constant", warmup_steps=2), math.inf)
    assert [constant(step) for step in (0, 1, 2, 10_000)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_warm_up_as_a_share_of_the_run_fits_runs_of_any_length() -> None:
    config = ScheduleConfig(kind="cosine", warmup_fraction=0.1)
    assert schedule_factor(config, 1000)(99) < 1 == schedule_factor(config, 1000)(100)
    assert schedule_factor(config, 3)(0) == 1


def test_a_run_without_known_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs the length of the run: set trainer.max_epochs"):
        schedule_factor(ScheduleConfig(kind="cosine"), math.inf)
    assert schedule_factor(ScheduleConfig(kind="cosine", total_steps=100), math.inf)(99) == pytest.approx(0.01)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"schedule.warmup_steps: 50; allowed: fewer than the 20 steps"):
        schedule_factor(ScheduleConfig(warmup_steps=50), 20)
