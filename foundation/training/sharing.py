"""What one level of theory learns, passed on to the weights of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundation.nn.linear import EquivariantLinear, ScaledLinear, UniformLinear

__all__ = ["share_steps"]


def share_steps(optimizer: torch.optim.Optimizer, model: nn.Module, *, sharing: float) -> None:
    """From now on every step of `optimizer` moves the weights of all levels of theory with those of one.

    A step that would move the weights of level k by d_k moves them by d_k + sharing * (the sum of all other levels' d).
    So each level goes as fast as if it were alone, and the others' steps, which to it are noise, count less.

    Args:
        optimizer: Of the parameters of `model`, of any kind.
        model: Its linear maps may have weights for each level of theory, along the first axis.
        sharing: 0 for levels that have nothing to do with each other, below 1.

    Source: coupled updates as in multi-task learning with a task kernel, Evgeniou, Micchelli and Pontil, JMLR 6, 615
    (2005), applied to steps instead of gradients.
    """
    shared = [weight for weight in _weights_of_levels(model) if weight.requires_grad]
    before: list[Tensor] = []

    @torch.no_grad()
    def keep(*_: Any) -> None:
        before[:] = [weight.detach().clone() for weight in shared]

    @torch.no_grad()
    def spread(*_: Any) -> None:
        for weight, old in zip(shared, before, strict=True):
            moved = weight - old
            weight.add_(moved.sum(0, keepdim=True) - moved, alpha=sharing)
        before.clear()

    if shared and sharing > 0:
        optimizer.register_step_pre_hook(keep)
        optimizer.register_step_post_hook(spread)


def _weights_of_levels(model: nn.Module) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, ScaledLinear | UniformLinear | EquivariantLinear) and module.num_levels:
            found.extend(module.parameters())
    return found
