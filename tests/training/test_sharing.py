"""How far a step of one level of theory moves the weights of the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from foundation.backbones import EquivariantConfig
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.linear import EquivariantLinear, ScaledLinear, UniformLinear
from foundation.training.optim import (
    AdamWConfig,
    MuonConfig,
    OptimizerConfig,
    SoapConfig,
    build_optimizer,
    uncoupled_optimizer,
)
from foundation.training.sharing import share_steps

ORDER = (0, 1, 1, 0, 2, 0, 1, 2, 0)
"""Levels of the batches of some steps."""


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, levels: Sequence[int]) -> None:
    """A step for each of `levels`, on data that depend on the level and on how often it came."""
    count = dict.fromkeys(levels, 0)
    for level in levels:
        generator = torch.Generator().manual_seed(100 * level + count[level])
        count[level] += 1
        inputs, targets = (torch.randn(20, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        optimizer.zero_grad()
        (model(inputs, torch.tensor([level])) - targets).square().mean().backward()
        optimizer.step()


def linear() -> ScaledLinear:
    torch.manual_seed(0)
    return ScaledLinear(6, 6, num_levels=3).double()


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    configs: dict[str, OptimizerConfig] = {"muon": MuonConfig(), "adamw": AdamWConfig(), "soap": SoapConfig()}
    return uncoupled_optimizer(model, configs[kind])


@pytest.mark.parametrize("kind", ["muon", "adamw", "soap"])
def test_a_step_moves_the_others_by_its_share(kind: str) -> None:
    plain, coupled = linear(), linear()
    start = plain.weight.detach().clone()
    optimizers = [optimizer_of(model, kind) for model in (plain, coupled)]
    share_steps(optimizers[1], coupled, sharing=0.25)
    first = (1,) if kind != "soap" else (1, 1)  # SOAP's first step only looks
    for model, optimizer in zip((plain, coupled), optimizers, strict=True):
        steps(model, optimizer, first)
    moved = plain.weight.detach() - start
    assert moved[1].abs().max() > 1e-4
    assert not moved[[0, 2]].any()
    expected = torch.stack([0.25 * moved[1], moved[1], 0.25 * moved[1]])
    torch.testing.assert_close(coupled.weight.detach() - start, expected)


def test_levels_that_share_nothing_train_as_if_each_were_alone() -> None:
    """Muon, momentum included; the order of the others' steps does not matter."""
    together = linear()
    steps(together, optimizer_of(together, "muon"), ORDER)
    for level in range(3):
        alone = linear()
        steps(alone, optimizer_of(alone, "muon"), [one for one in ORDER if one == level])
        torch.testing.assert_close(together.weight[level], alone.weight[level])


def test_every_linear_map_is_coupled_and_nothing_else() -> None:
    backbone = EquivariantConfig(channels=8, pseudo_channels=4, radial_width=8, level_sharing=0.5)
    heads = {"energy": default_head("energy")}
    model = FoundationModel(ModelConfig(backbone=backbone, heads=heads, elements=(1, 6), levels=("a", "b")))
    optimizer = build_optimizer(model, MuonConfig())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, ScaledLinear | UniformLinear | EquivariantLinear) and module.num_levels:
            weights.update(module.parameters())
            for weight in module.parameters():
                assert weight.grad is not None
                weight.grad[0].normal_()
    assert len(weights) > 20
    assert {model.get_parameter(f"heads.energy.readout.inner.{what}") for what in ("weight", "bias")} <= weights
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - before[name]
        assert bool(moved.any()) == (parameter in weights), name
        if parameter in weights:
            torch.testing.assert_close(moved[1], 0.5 * moved[0], atol=1e-6, rtol=1e-4)


def test_frozen_weights_stay_still() -> None:
    model = linear()
    model.weight.requires_grad_(False)
    other = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([other], lr=0.1)
    share_steps(optimizer, model, sharing=0.5)
    before = model.weight.clone()
    other.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(model.weight, before)
