"""Linear maps with unit-variance weights scaled in the forward pass, so that one learning rate suits every width.

They may have weights for each level of theory, all the same at the start; the level of a batch is an argument then. How
much of what one level learns goes into the others' is the optimizer's matter (`foundation.training.sharing`).

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


Level = Int[Tensor, " one"]
"""Number of the one level of theory that a batch has."""


def _drawn(shape: tuple[int, ...], num_levels: int) -> nn.Parameter:
    """Weights from N(0, 1), the same for each of `num_levels` levels of theory along a first axis, if there are any."""
    weight = torch.randn(shape)
    return nn.Parameter(weight.repeat(num_levels, *[1] * len(shape)) if num_levels else weight)


def _of_level(weight: Tensor, num_levels: int, level: Level | None) -> Tensor:
    if not num_levels:
        return weight
    assert level is not None, "weights for each level of theory, and no level"
    return take_rows(weight, level)[0]


class ScaledLinear(nn.Module):
    """y = x W / sqrt(fan_in) (+ b), W ~ N(0, 1).

    Args:
        in_features: Of the input.
        out_features: Of the result.
        bias: Whether there is one.
        num_levels: Levels of theory that have weights each; 0: one for all.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, num_levels: int = 0) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.weight = _drawn((in_features, out_features), num_levels)
        self.bias = nn.Parameter(torch.zeros(*([num_levels] if num_levels else []), out_features)) if bias else None
        self.scale = in_features**-0.5

    def forward(
        self, inputs: Float[Tensor, "*rows in_features"], level: Level | None = None
    ) -> Float[Tensor, "*rows out_features"]:
        outputs = inputs @ (_of_level(self.weight, self.num_levels, level) * self.scale)
        return outputs if self.bias is None else outputs + _of_level(self.bias, self.num_levels, level)


class EquivariantLinear(nn.Module):
    """Mix channels of each degree with weights of its own; components stay.

    Args:
        in_channels: Channels that each degree brings (paths * channels).
        out_channels: Channels of every degree of the result.
        num_levels: As for `ScaledLinear`.

    Attributes:
        gain: `[degrees]`, a constant set once by `calibrated` so that outputs start with unit variance.
    """

    gain: Tensor

    def __init__(self, in_channels: list[int], out_channels: int, *, num_levels: int = 0) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.calibrating = False
        self.num_levels = num_levels
        self.weights = nn.ParameterList(_drawn((size, out_channels), num_levels) for size in in_channels)
        self.register_buffer("gain", torch.tensor([size**-0.5 for size in in_channels]))

    def forward(
        self, inputs: list[Float[Tensor, "atoms _ _"]], level: Level | None = None
    ) -> Float[Tensor, "atoms components out"]:
        """One tensor a degree in, `[atoms, 2l+1, in_channels[l]]`; all degrees together out."""
        weights = [_of_level(weight, self.num_levels, level) for weight in self.weights]
        if self.calibrating:
            self._calibrate(inputs, weights)
        gains = self.gain.unbind()
        return torch.cat(
            [part @ (weight * gain) for part, weight, gain in zip(inputs, weights, gains, strict=True)], dim=1
        )

    @torch.no_grad()
    def _calibrate(self, inputs: list[Tensor], weights: list[Tensor]) -> None:
        for degree, (part, weight) in enumerate(zip(inputs, weights, strict=True)):
            self.gain[degree] = _gain(part, weight)


class UniformLinear(nn.Module):
    """Mix channels of each degree with weights of its own, where all degrees have as many channels: one batched GEMM.

    Args:
        degree: Largest degree of the features.
        in_channels: Channels of every degree.
        out_channels: Channels of every degree of the result.
        num_levels: As for `ScaledLinear`.

    Attributes:
        gain: `[degrees]`, a constant set once by `calibrated` so that outputs start with unit variance.
    """

    gain: Tensor

    def __init__(self, degree: int, in_channels: int, out_channels: int, *, num_levels: int = 0) -> None:
        super().__init__()
        self.calibrating = False
        self.num_levels = num_levels
        self.weight = _drawn((degree + 1, in_channels, out_channels), num_levels)
        self.register_buffer("gain", torch.full((degree + 1,), in_channels**-0.5))

    def forward(
        self, inputs: Float[Tensor, "atoms components _"], level: Level | None = None
    ) -> Float[Tensor, "atoms components out"]:
        """Mix; components stay."""
        weight = _of_level(self.weight, self.num_levels, level)
        if self.calibrating:
            self._calibrate(inputs, weight)
        weights = over_components(weight * self.gain[:, None, None])
        return torch.bmm(inputs.transpose(0, 1), weights).transpose(0, 1)

    @torch.no_grad()
    def _calibrate(self, inputs: Tensor, weight: Tensor) -> None:
        for degree, part in enumerate(split_degrees(inputs)):
            self.gain[degree] = _gain(part, weight[degree])


def _gain(inputs: Tensor, weight: Tensor) -> float:
    """What gives outputs of unit variance, within `MAXIMUM_GAIN`."""
    size = float((inputs @ weight).square().mean().sqrt())
    return min(1.0 / size, MAXIMUM_GAIN * len(weight) ** -0.5) if size > 0 else len(weight) ** -0.5


def over_components(values: Float[Tensor, "*_"], *, dim: int = 0) -> Float[Tensor, "*_"]:
    """Repeat what each degree has along one axis for its components: `[…, degrees, …] -> […, (l+1)², …]`.

    Copies of slices, which a compiler merges into what follows; of an index it would make a call.
    """
    shape = list(values.shape)
    parts = []
    for degree in range(shape[dim]):
        shape[dim] = 2 * degree + 1
        parts.append(values.narrow(dim, degree, 1).expand(shape))
    return torch.cat(parts, dim=dim)


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
