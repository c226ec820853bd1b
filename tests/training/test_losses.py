"""Losses under masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from foundation.config import validate
from foundation.errors import InputError
from foundation.properties import PROPERTIES, get_property
from foundation.recipe import TaskConfig
from foundation.training.losses import (
    BceConfig,
    CrossEntropyConfig,
    HuberConfig,
    MaeConfig,
    MseConfig,
    NormConfig,
    RegressionLossConfig,
    binary_loss,
    check_loss,
    class_loss,
    default_loss,
    regression_loss,
)

REGRESSION = [MseConfig(), MaeConfig(), HuberConfig(delta=0.5), NormConfig()]


@pytest.mark.parametrize("config", REGRESSION, ids=lambda config: config.kind)
def test_the_gradient_of_a_perfect_prediction_is_zero(config: RegressionLossConfig) -> None:
    residual = torch.zeros(5, 3, requires_grad=True)
    regression_loss(config, residual, torch.ones(5, dtype=torch.bool)).total.backward()
    assert torch.equal(residual.grad, torch.zeros(5, 3))


@pytest.mark.parametrize("config", REGRESSION, ids=lambda config: config.kind)
def test_rows_without_label_count_for_nothing_even_if_they_are_nan(config: RegressionLossConfig) -> None:
    residual = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, False, True, True, False, False])
    spoiled = residual.clone()
    spoiled[~mask] = torch.nan
    spoiled.requires_grad_()
    loss = regression_loss(config, spoiled, mask)
    loss.total.backward()
    alone = regression_loss(config, residual[mask], torch.ones(3, dtype=torch.bool))
    assert loss.count == 3
    torch.testing.assert_close(loss.total, alone.total)
    assert torch.equal(spoiled.grad[~mask], torch.zeros(3, 3))
    assert spoiled.grad[mask].abs().min() > 0


@pytest.mark.parametrize("config", [MseConfig(), HuberConfig(delta=0.5), NormConfig()], ids=lambda c: c.kind)
def test_losses_of_vectors_do_not_depend_on_the_orientation(config: RegressionLossConfig) -> None:
    generator = torch.Generator().manual_seed(1)
    residual = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    mask = torch.ones(7, dtype=torch.bool)
    turned = regression_loss(config, residual @ rotation, mask).total
    torch.testing.assert_close(turned, regression_loss(config, residual, mask).total)


def test_values_of_regression_losses() -> None:
    residual = torch.tensor([[3.0, 0.0, 4.0]])
    mask = torch.tensor([True])
    assert regression_loss(NormConfig(), residual, mask).total == 5
    assert regression_loss(HuberConfig(delta=1.0), residual, mask).total == 4.5
    torch.testing.assert_close(regression_loss(MaeConfig(), residual, mask).total, torch.tensor(7 / 3))
    torch.testing.assert_close(regression_loss(MseConfig(), residual, mask).total, torch.tensor(25 / 3))


def test_an_empty_mask_gives_zero_over_zero_entries_and_no_gradient() -> None:
    residual = torch.randn(4, requires_grad=True)
    loss = regression_loss(MaeConfig(), residual, torch.zeros(4, dtype=torch.bool))
    loss.total.backward()
    assert loss.total == 0
    assert loss.count == 0
    assert torch.equal(residual.grad, torch.zeros(4))


@pytest.mark.parametrize("negative", [-1.0, 0.0])
def test_binary_loss_is_torchs_on_the_labelled_rows(negative: float) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.1])
    labels = torch.tensor([1.0, negative, 1.0, negative])
    mask = torch.tensor([True, True, False, True])
    loss = binary_loss(BceConfig(positive_weight=3.0), logits, labels, mask)
    expected = functional.binary_cross_entropy_with_logits(
        logits[mask], (labels[mask] > 0).float(), reduction="sum", pos_weight=torch.tensor(3.0)
    )
    assert loss.count == 3
    torch.testing.assert_close(loss.total, expected)


def test_class_loss_is_torchs_on_the_labelled_rows() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 3, 1, 2, 2])
    mask = torch.tensor([True, False, True, True, False])
    loss = class_loss(CrossEntropyConfig(), logits, labels, mask)
    torch.testing.assert_close(loss.total, functional.cross_entropy(logits[mask], labels[mask], reduction="sum"))
    assert loss.count == 3


@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_every_property_has_a_default_loss_that_can_judge_it(name: str) -> None:
    prop = get_property(name)
    check_loss(default_loss(prop), prop, where="task 't'")


def test_a_loss_that_cannot_judge_a_property_is_refused() -> None:
    with pytest.raises(InputError, match=r"task 't': loss 'mse' cannot judge property 'handedness'.*that can: bce"):
        check_loss(MseConfig(), get_property("handedness"), where="task 't'")


def test_a_recipe_names_a_loss_by_its_kind() -> None:
    data = {"property": "forces", "data": ["a"], "loss": {"kind": "huber", "delta": 2}}
    assert validate(TaskConfig, data, where="task").loss == HuberConfig(delta=2.0)
