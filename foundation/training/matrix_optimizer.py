"""What optimizers with a rule of their own for matrices share: their groups, and AdamW for everything else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MatrixOptimizer(torch.optim.Optimizer):
    """Its own rule on `matrices`, AdamW on `decayed` (with weight decay) and `others` (without)."""

    def __init__(
        self,
        *,
        matrices: Sequence[nn.Parameter],
        decayed: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        weight_decay: float,
        defaults: Mapping[str, Any],
    ) -> None:
        """Take the parameters in three groups, any of which may be empty but not all.

        Args:
            matrices: Two axes or more; leading ones are batches.
            decayed: Moved by AdamW, with weight decay.
            others: Moved by AdamW, without.
            weight_decay: Decoupled, times the learning rate.
            defaults: `lr`, `betas`, `eps` and what the rule for matrices needs.
        """
        assert all(parameter.ndim >= 2 for parameter in matrices), "matrices have two axes or more"
        groups = [
            {"params": list(matrices), "matrices": True, "weight_decay": weight_decay},
            {"params": list(decayed), "matrices": False, "weight_decay": weight_decay},
            {"params": list(others), "matrices": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], dict(defaults))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moving and group["matrices"]:
                self._move_matrices(group, moving)
            elif moving:
                adamw_step(self.state, group, moving)
        return loss

    @abstractmethod
    def _move_matrices(self, group: dict[str, Any], moving: list[nn.Parameter]) -> None:
        """Move matrices, all of which have gradients."""


def where_moved(gradient: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch 1 1"]:
    """1 for each matrix of a batch that has a gradient, 0 for one that had no part in a step and has to keep still."""
    return (gradient != 0).any(-1, keepdim=True).any(-2, keepdim=True).to(gradient.dtype)


def adamw_step(states: MutableMapping[Any, Any], group: Mapping[str, Any], moving: Sequence[Tensor]) -> None:
    """Move parameters as AdamW does, all at once.

    Args:
        states: Parameter -> what is kept of it between steps.
        group: Holds `lr`, `betas`, `eps`, `weight_decay`.
        moving: Parameters with gradients.
    """
    beta1, beta2 = group["betas"]
    parameters = list(moving)
    gradients, means, squares, steps = [], [], [], []
    for parameter in parameters:
        state = states[parameter]
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = 0
        state["step"] += 1
        gradients.append(parameter.grad)
        means.append(state["exp_avg"])
        squares.append(state["exp_avg_sq"])
        steps.append(state["step"])
    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(denominators, group["eps"])
    torch._foreach_addcdiv_(parameters, means, denominators, [-group["lr"] / (1 - beta1**step) for step in steps])
