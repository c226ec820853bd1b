"""Linear maps with unit-variance weights scaled in the forward pass, so that one learning rate suits every width.

Source of the parametrisation: Geiger and Smidt, e3nn (arXiv 2207.09453), section on normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAXIMUM_GAIN = 100.0
"""Largest gain of `calibrated`, times what unit-variance inputs would need: a degree that the structures of the
calibration lack must not be blown up."""


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
        in_channels: Channels that each degree brings (paths * channels).
        out_channels: Channels of every degree of the result.

    Attributes:
        gain: `[degrees]`, a constant set once by `calibrated` so that outputs start with unit variance.
    """

    gain: Tensor

    def __init__(self, in_channels: list[int], out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.calibrating = False
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(size, out_channels)) for size in in_channels)
        self.register_buffer("gain", torch.tensor([size**-0.5 for size in in_channels]))

    def forward(self, inputs: list[Float[Tensor, "atoms _ _"]]) -> Float[Tensor, "atoms components out"]:
        """One tensor a degree in, `[atoms, 2l+1, in_channels[l]]`; all degrees together out."""
        if self.calibrating:
            self._calibrate(inputs)
        gains = self.gain.unbind()
        return torch.cat(
            [part @ (weight * gain) for part, weight, gain in zip(inputs, self.weights, gains, strict=True)], dim=1
        )

    @torch.no_grad()
    def _calibrate(self, inputs: list[Tensor]) -> None:
        for degree, (part, weight) in enumerate(zip(inputs, self.weights, strict=True)):
            size = (part @ weight).square().mean().sqrt()
            largest = MAXIMUM_GAIN * len(weight) ** -0.5
            self.gain[degree] = min(1.0 / float(size), largest) if size > 0 else len(weight) ** -0.5


@contextmanager
def calibrated(module: nn.Module) -> Iterator[None]:
    """Within this context every `EquivariantLinear` of `module` sets its gain from the batch that passes through it.

    One forward pass on training structures then starts all features at unit variance, however many neighbours there are
    and however high the product. The gains are constants afterwards and travel with the weights.

    Source: layer-sequential unit variance, Mishkin and Matas, ICLR 2016 (arXiv 1511.06422).
    """
    linears = [part for part in module.modules() if isinstance(part, EquivariantLinear)]
    for linear in linears:
        linear.calibrating = True
    try:
        yield
    finally:
        for linear in linears:
            linear.calibrating = False


def split_degrees(features: Float[Tensor, "atoms components channels"]) -> list[Float[Tensor, "atoms _ channels"]]:
    """Cut `[atoms, (l+1)², channels]` into one tensor a degree."""
    degree = round(features.shape[1] ** 0.5) - 1
    return list(features.split([2 * order + 1 for order in range(degree + 1)], dim=1))
