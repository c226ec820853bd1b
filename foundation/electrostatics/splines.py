"""Cardinal B-splines: the weights with which a point is spread over the points of a grid, and their derivatives."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def spline_weights(offsets: Float[Tensor, "*shape"], *, order: int, derivative: int = 0) -> Float[Tensor, "*shape p"]:
    """Weights of the p grid points around a point; differentiable any number of times (they are p−2 times smooth).

    Args:
        offsets: Distance of the point from the grid point below it, in units of the spacing, 0 to 1.
        order: p, even: grid points −p/2+1 to p/2 from the one below take part.
        derivative: Of the weights by the point's position, in units of the spacing.
    """
    return _weights(offsets, order, derivative)


def spline_transform(orders: Float[Tensor, "*shape"], *, order: int) -> Float[Tensor, "*shape"]:
    """Fourier transform of the spline that is centred on 0, sinc^p.

    Args:
        orders: Number of waves per grid spacing.
        order: p.
    """
    return torch.sinc(orders) ** order


@functools.cache
def _coefficients(order: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """Polynomials in (offset − ½) of each grid point's weight: `[power][point]`.

    From M_p(x) = Σ_k (−1)^k C(p, k) max(x − k, 0)^{p−1} / (p−1)!, in exact fractions.
    """
    pieces = []
    for point in range(order):
        piece = order - 1 - point
        powers = [Fraction(0)] * order
        for k in range(piece + 1):
            shift = Fraction(2 * (piece - k) + 1, 2)
            factor = Fraction((-1) ** k * math.comb(order, k), math.factorial(order - 1))
            for power in range(order):
                powers[power] += factor * math.comb(order - 1, power) * shift ** (order - 1 - power)
        for _ in range(derivative):
            powers = [*(power * value for power, value in enumerate(powers) if power > 0), Fraction(0)]
        pieces.append(powers)
    return tuple(tuple(float(piece[power]) for piece in pieces) for power in range(order))


@torch.library.custom_op(
    "foundation::spline_weights", mutates_args=(), schema="(Tensor offsets, int order, int derivative) -> Tensor"
)
def _weights(offsets: Tensor, order: int, derivative: int) -> Tensor:
    coefficients = offsets.new_tensor(_coefficients(order, derivative))
    centred = (offsets - 0.5)[..., None]
    weights = coefficients[order - 1].expand(*offsets.shape, order)
    for power in range(order - 2, -1, -1):
        weights = torch.addcmul(coefficients[power], weights, centred)
    return weights.contiguous()


@_weights.register_fake
def _(offsets: Tensor, order: int, derivative: int) -> Tensor:
    del derivative
    return offsets.new_empty((*offsets.shape, order))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    offsets, ctx.order, ctx.derivative = inputs
    ctx.save_for_backward(offsets)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (offsets,) = ctx.saved_tensors
    return (grad * _weights(offsets, ctx.order, ctx.derivative + 1)).sum(-1), None, None


_weights.register_autograd(_backward, setup_context=_keep)
