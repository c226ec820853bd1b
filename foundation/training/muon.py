"""Muon for matrices and batches of matrices, AdamW for the rest, as one optimizer.

torch's own `Muon` takes two-dimensional parameters only, one at a time and in bfloat16; here leading axes are batches,
equal shapes are orthogonalised together, and the iteration runs in the parameters' own precision.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon/ (2024); scaling to AdamW's step, Liu et al.,
arXiv 2502.16982, section 2.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic with the steepest slope at zero; singular values end between 0.7 and 1.2 (Jordan et al.)."""
NEWTON_SCHULZ_STEPS = 5
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW update over its learning rate (Liu et al., section 2.2)."""


def orthogonalize(matrices: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """Replace the singular values of each matrix by numbers near one (Newton–Schulz iterations); zero stays zero."""
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    result = matrices.mT if tall else matrices
    result = result / torch.linalg.matrix_norm(result, keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.mT if tall else result


class MuonAdamW(torch.optim.Optimizer):
    """Muon on `matrices`, AdamW on `decayed` (with weight decay) and `others` (without)."""

    def __init__(
        self,
        *,
        matrices: Sequence[nn.Parameter],
        decayed: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        """Take the parameters in three groups, any of which may be empty but not all."""
        assert all(parameter.ndim >= 2 for parameter in matrices), "Muon moves matrices only"
        groups = [
            {"params": list(matrices), "orthogonal": True, "weight_decay": weight_decay},
            {"params": list(decayed), "orthogonal": False, "weight_decay": weight_decay},
            {"params": list(others), "orthogonal": False, "weight_decay": 0.0},
        ]
        defaults = {"lr": learning_rate, "momentum": momentum, "betas": betas, "eps": epsilon}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moving and group["orthogonal"]:
                self._muon_step(group, moving)
            elif moving:
                adamw_step(self.state, group, moving)
        return loss

    def _muon_step(self, group: dict, moving: list[nn.Parameter]) -> None:
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in moving:
            by_shape[parameter.shape[-2], parameter.shape[-1]].append(parameter)
        for shape, parameters in by_shape.items():
            directions = [self._nesterov(parameter, group["momentum"]) for parameter in parameters]
            stacked = orthogonalize(torch.cat([direction.reshape(-1, *shape) for direction in directions]))
            sizes = [direction.numel() // (shape[0] * shape[1]) for direction in directions]
            scale = ADAMW_RMS * max(shape) ** 0.5
            for parameter, update in zip(parameters, stacked.split(sizes), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


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
