"""Linear maps with unit-variance weights scaled in the forward pass, so that one learning rate suits every width.

Source of the parametrisation: Geiger and Smidt, e3nn (arXiv 2207.09453), section on normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foundation.nn.gather import take_rows

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
            self.gain[degree] = _gain(part, weight)


class UniformLinear(nn.Module):
    """Mix channels of each degree with weights of its own, where all degrees have as many channels: one batched GEMM.

    Args:
        degree: Largest degree of the features.
        in_channels: Channels of every degree.
        out_channels: Channels of every degree of the result.

    Attributes:
        gain: `[degrees]`, a constant set once by `calibrated` so that outputs start with unit variance.
    """

    gain: Tensor
    degree_of_component: Tensor

    def __init__(self, degree: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.calibrating = False
        self.weight = nn.Parameter(torch.randn(degree + 1, in_channels, out_channels))
        self.register_buffer("gain", torch.full((degree + 1,), in_channels**-0.5))
        self.register_buffer("degree_of_component", degrees_of_components(degree), persistent=False)

    def forward(self, inputs: Float[Tensor, "atoms components _"]) -> Float[Tensor, "atoms components out"]:
        """Mix; components stay."""
        if self.calibrating:
            self._calibrate(inputs)
        weights = take_rows(self.weight * self.gain[:, None, None], self.degree_of_component)
        return torch.bmm(inputs.transpose(0, 1), weights).transpose(0, 1)

    @torch.no_grad()
    def _calibrate(self, inputs: Tensor) -> None:
        for degree, part in enumerate(split_degrees(inputs)):
            self.gain[degree] = _gain(part, self.weight[degree])


def _gain(inputs: Tensor, weight: Tensor) -> float:
    """What gives outputs of unit variance, within `MAXIMUM_GAIN`."""
    size = float((inputs @ weight).square().mean().sqrt())
    return min(1.0 / size, MAXIMUM_GAIN * len(weight) ** -0.5) if size > 0 else len(weight) ** -0.5


def degrees_of_components(degree: int) -> Int[Tensor, " components"]:
    """The l of each component (l, m): 0, 1, 1, 1, 2, …"""
    orders = torch.arange(degree + 1)
    return orders.repeat_interleave(2 * orders + 1)


@contextmanager
def calibrated(module: nn.Module) -> Iterator[None]:
    """Within this context every equivariant linear map of `module` sets its gain from the batch that passes through it.

    One forward pass on training structures then starts all features at unit variance, however many neighbours there are
    and however high the product. The gains are constants afterwards and travel with the weights.

    Source: layer-sequential unit variance, Mishkin and Matas, ICLR 2016 (arXiv 1511.06422).
    """
    linears = [part for part in module.modules() if isinstance(part, EquivariantLinear | UniformLinear)]
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
