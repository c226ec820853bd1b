"""Which parameters decay, and how Muon moves matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from foundation.model import FoundationModel
from foundation.training.muon import MuonAdamW, orthogonalize
from foundation.training.optim import AdamWConfig, MuonConfig, OptimizerConfig, build_optimizer, split_parameters


def muon(**groups: list[nn.Parameter]) -> MuonAdamW:
    """An optimizer with the given groups and plain settings."""
    filled = {"matrices": [], "decayed": [], "others": [], **groups}
    return MuonAdamW(**filled, learning_rate=0.1, weight_decay=0.01, momentum=0.9, betas=(0.9, 0.99), epsilon=1e-8)


def test_embeddings_scales_and_biases_do_not_decay(make_model: Callable[[], FoundationModel]) -> None:
    matrices, others = split_parameters(make_model())
    assert {"backbone.conditioning.element", "backbone.layers.0.element_scale"} <= others.keys()
    assert all(parameter.ndim >= 2 for parameter in matrices.values())
    assert not any(name.endswith("bias") for name in matrices)
    assert len(matrices) > len(others)


@pytest.mark.parametrize("config", [AdamWConfig(weight_decay=0.1), MuonConfig(weight_decay=0.1)], ids=lambda c: c.kind)
def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay(
    config: OptimizerConfig, make_model: Callable[[], FoundationModel]
) -> None:
    model = make_model()
    frozen = model.backbone.conditioning.level.requires_grad_(False)
    optimizer = build_optimizer(model, config)
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(p) for p in moved} == {id(p) for p in model.parameters()} - {id(frozen)}
    assert len(moved) == len({id(p) for p in moved})
    matrices = {id(parameter) for parameter in split_parameters(model)[0].values()}
    for group in optimizer.param_groups:
        decays = [id(parameter) in matrices for parameter in group["params"]]
        assert decays == [group["weight_decay"] > 0] * len(decays)


@pytest.mark.parametrize("shape", [(3, 12, 7), (2, 7, 12), (4, 9, 9)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonalize(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ result @ right.mT
    diagonal = torch.diagonal(values, dim1=1, dim2=2)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    assert diagonal.min() > 0.5
    assert diagonal.max() < 1.3


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_a_batch_of_matrices_moves_as_each_would_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    start, gradient = torch.randn(3, 6, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    together = nn.Parameter(start.clone())
    alone = [nn.Parameter(matrix.clone()) for matrix in start]
    together.grad = gradient
    for parameter, part in zip(alone, gradient, strict=True):
        parameter.grad = part
    muon(matrices=[together]).step()
    muon(matrices=alone).step()
    torch.testing.assert_close(together.detach(), torch.stack([p.detach() for p in alone]))


def test_muon_steps_like_torchs_own_up_to_bfloat16() -> None:
    generator = torch.Generator().manual_seed(2)
    ours = nn.Parameter(torch.randn(16, 8, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    first = muon(matrices=[ours])
    second = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw", nesterov=True
    )
    for _ in range(3):
        ours.grad = torch.randn(16, 8, generator=generator)
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=0.01, rtol=0)


def test_the_rest_moves_as_torchs_adamw_does() -> None:
    generator = torch.Generator().manual_seed(3)
    ours = [nn.Parameter(torch.randn(4, 3, generator=generator)), nn.Parameter(torch.randn(5, generator=generator))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    first = muon(decayed=ours[:1], others=ours[1:])
    groups = [{"params": theirs[:1], "weight_decay": 0.01}, {"params": theirs[1:], "weight_decay": 0.0}]
    second = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        first.step()
        second.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.detach(), other.detach())


def test_parameters_without_gradient_stay_where_they_are() -> None:
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = muon(matrices=[still, moving])
    moving.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(still.detach(), torch.ones(4, 4))
    assert not torch.equal(moving.detach(), torch.ones(4, 4))
