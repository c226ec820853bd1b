"""Muon for matrices and batches of matrices, AdamW for the rest, as one optimizer.

torch's own `Muon` takes two-dimensional parameters only, one at a time and in bfloat16; here leading axes are batches,
equal shapes are orthogonalised together, and the iteration runs in the parameters' own precision.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon/ (2024); scaling to AdamW's step, Liu et al.,
arXiv 2502.16982, section 2.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.training.matrix_optimizer import MatrixOptimizer, where_moved

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


class MuonAdamW(MatrixOptimizer):
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
        """Take the parameters in three groups, as `MatrixOptimizer`."""
        super().__init__(
            matrices=matrices,
            decayed=decayed,
            others=others,
            weight_decay=weight_decay,
            defaults={"lr": learning_rate, "momentum": momentum, "betas": betas, "eps": epsilon},
        )

    def _move_matrices(self, group: dict[str, Any], moving: list[nn.Parameter]) -> None:
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
        # The matrices of a level of theory that is not in the batch, and their momentum, keep still.
        moved = where_moved(parameter.grad)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, (1 - momentum) * moved)
        return parameter.grad.lerp(buffer, momentum) * moved
