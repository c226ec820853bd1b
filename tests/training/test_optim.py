"""Which parameters decay, and how Muon and SOAP move matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foundation.model import FoundationModel
from foundation.training.muon import MuonAdamW, orthogonalize
from foundation.training.optim import (
    AdamWConfig,
    MuonConfig,
    OptimizerConfig,
    SoapConfig,
    build_optimizer,
    split_parameters,
)
from foundation.training.soap import SoapAdamW


def muon(**groups: list[nn.Parameter]) -> MuonAdamW:
    """An optimizer with the given groups and plain settings."""
    filled = {"matrices": [], "decayed": [], "others": [], **groups}
    return MuonAdamW(**filled, learning_rate=0.1, weight_decay=0.01, momentum=0.9, betas=(0.9, 0.99), epsilon=1e-8)


def soap(**groups: list[nn.Parameter]) -> SoapAdamW:
    """An optimizer with the given groups and plain settings."""
    filled = {"matrices": [], "decayed": [], "others": [], **groups}
    settings = {"betas": (0.9, 0.95), "epsilon": 1e-12, "frequency": 3, "largest_side": 6}
    return SoapAdamW(**filled, learning_rate=0.05, weight_decay=0.0, **settings)


def test_embeddings_scales_and_biases_do_not_decay(make_model: Callable[[], FoundationModel]) -> None:
    matrices, others = split_parameters(make_model())
    assert {"backbone.conditioning.element", "backbone.layers.0.element_scale"} <= others.keys()
    assert all(parameter.ndim >= 2 for parameter in matrices.values())
    assert not any(name.endswith("bias") for name in matrices)
    assert len(matrices) > len(others)


@pytest.mark.parametrize(
    "config",
    [AdamWConfig(weight_decay=0.1), MuonConfig(weight_decay=0.1), SoapConfig(weight_decay=0.1)],
    ids=lambda c: c.kind,
)
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


def least_squares(start: Tensor, inputs: Tensor, targets: Tensor, *, steps: int) -> Tensor:
    """Where SOAP takes `inputs @ weights` towards `targets`, another quarter of the rows each step."""
    weights = nn.Parameter(start.clone())
    optimizer = soap(matrices=[weights])
    for step in range(steps):
        optimizer.zero_grad()
        (inputs[step % 4 :: 4] @ weights - targets[step % 4 :: 4]).square().mean().backward()
        optimizer.step()
    return weights.detach()


def test_soap_does_not_care_about_axes() -> None:
    generator = torch.Generator().manual_seed(5)
    # Square, so that the first gradient already tells all axes of both covariances apart.
    start, inputs, targets = (torch.randn(rows, 5, generator=generator).double() for rows in (5, 40, 40))
    left, right = (torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q for _ in range(2))
    plain = least_squares(start, inputs, targets, steps=25)
    turned = least_squares(left @ start @ right.mT, inputs @ left.mT, targets @ right.mT, steps=25)
    torch.testing.assert_close(left.mT @ turned @ right, plain, atol=1e-8, rtol=0)
    assert (inputs @ plain - targets).square().mean() < (inputs @ start - targets).square().mean() / 2


def test_soap_of_sides_that_are_too_long_is_adam() -> None:
    generator = torch.Generator().manual_seed(6)
    ours = nn.Parameter(torch.randn(8, 9, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    first, second = soap(matrices=[ours]), torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.95), eps=1e-12)
    ours.grad = torch.zeros_like(ours)
    first.step()
    for _ in range(4):
        ours.grad = torch.randn(8, 9, generator=generator)
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs)


def test_soap_moves_a_batch_of_matrices_as_each_would_alone() -> None:
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(3, 6, 5, generator=generator).double()
    together, alone = nn.Parameter(start.clone()), [nn.Parameter(matrix.clone()) for matrix in start]
    first, second = soap(matrices=[together]), soap(matrices=alone)
    for _ in range(8):
        together.grad = torch.randn(3, 6, 5, generator=generator).double()
        for parameter, part in zip(alone, together.grad, strict=True):
            parameter.grad = part
        first.step()
        second.step()
    torch.testing.assert_close(together.detach(), torch.stack([p.detach() for p in alone]))
