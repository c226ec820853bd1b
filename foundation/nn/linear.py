"""Linear maps with unit-variance weights scaled in the forward pass, so that one learning rate suits every width.

Source of the parametrisation: Geiger and Smidt, e3nn (arXiv 2207.09453), section on normalisation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ScaledLinear(nn.Module):
    """y = x W / sqrt(fan_in) (+ b), W ~ N(0, 1)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.scale = in_features**-0.5

    def forward(self, inputs: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        outputs = inputs @ (self.weight * self.scale)
        return outputs if self.bias is None else outputs + self.bias


class EquivariantLinear(nn.Module):
    """Mix channels of each degree with weights of its own; components stay.

    Args:
        in_channels: Channels that each degree brings (paths * channels); 0 where a degree is absent.
        out_channels: Channels of every degree of the result.
    """

    def __init__(self, in_channels: list[int], out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.maps = nn.ModuleList(ScaledLinear(size, out_channels) for size in in_channels)

    def forward(self, inputs: list[Float[Tensor, "atoms m in_channels"]]) -> Float[Tensor, "atoms components out"]:
        """One tensor a degree in, `[atoms, 2l+1, in_channels[l]]`; all degrees together out."""
        return torch.cat([linear(part) for linear, part in zip(self.maps, inputs, strict=True)], dim=1)


def split_degrees(features: Float[Tensor, "atoms components channels"]) -> list[Float[Tensor, "atoms m channels"]]:
    """Cut `[atoms, (l+1)², channels]` into one tensor a degree."""
    degree = int(round(features.shape[1] ** 0.5)) - 1
    return list(features.split([2 * order + 1 for order in range(degree + 1)], dim=1))
