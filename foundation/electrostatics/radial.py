"""Radial functions of two Gaussians of equal width: their Coulomb or Yukawa interaction and its derivatives.

B₀(r) is the interaction of two unit charges, B_{n+1} = −B_n′/r. Everything that charges and dipoles do to each other,
forces and their derivatives included, is a polynomial in the distance vector times these. As functions of r² they are
smooth at r = 0, and closed under differentiation: dB_n/d(r²) = −B_{n+1}/2.

Source: Smith, CCP5 Newsletter 46, 18 (1998), for erf; the recursion for the screened case is derived below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SERIES_BELOW = 1.5
"""(r / 2σ)² below which the Taylor series in r² is used: there the upward recursion would lose digits."""
SERIES_TERMS = 22
"""1.5²² / 22! is 7e-18."""


@dataclass(frozen=True)
class PairLaw:
    """How two Gaussians act on each other.

    Attributes:
        smearing: σ, the width of either, Å.
        inverse_screening: κ, 1/Å; zero for Coulomb.
    """

    smearing: float
    inverse_screening: float


def radial_functions(
    squared_distances: Float[Tensor, "*shape"], law: PairLaw, *, orders: int
) -> Float[Tensor, "orders *shape"]:
    """B₀ … B_{orders−1} of two Gaussians, differentiable any number of times.

    Without screening B₀ = erf(r/2σ)/r. With it B₀ = e^{κ²σ²}/(2r) [e^{−κr} erfc(κσ − r/2σ) − e^{κr} erfc(κσ + r/2σ)],
    whose Fourier transform is 4π e^{−σ²k²}/(k² + κ²).

    Args:
        squared_distances: r², Å²; zero is allowed.
        law: σ and κ.
        orders: How many.

    Returns:
        B_n in Å^−(2n+1), without the Coulomb constant.
    """
    return _radial(squared_distances, law.smearing, law.inverse_screening, orders)


def radial_at_zero(law: PairLaw, *, orders: int) -> list[float]:
    """B₀ … at r = 0: what a Gaussian's charge and dipole feel of themselves.

    From r² B_{n+1} = (2n+1) B_n + κ² B_{n−1} − g_n (see `_by_recursion`) at r = 0.
    """
    smearing, kappa = law.smearing, law.inverse_screening
    gaussian = 1 / (math.sqrt(math.pi) * smearing)
    values = [gaussian - kappa * math.exp((kappa * smearing) ** 2) * math.erfc(kappa * smearing)]
    for order in range(1, orders):
        gaussian /= 2 * smearing**2
        values.append((gaussian - kappa**2 * values[-1]) / (2 * order + 1))
    return values


@torch.library.custom_op(
    "foundation::radial_functions",
    mutates_args=(),
    schema="(Tensor squared, float smearing, float inverse_screening, int orders) -> Tensor",
)
def _radial(squared: Tensor, smearing: float, inverse_screening: float, orders: int) -> Tensor:
    near = squared < SERIES_BELOW * 4 * smearing**2
    series = _by_series(squared.clamp(max=SERIES_BELOW * 4 * smearing**2), smearing, inverse_screening, orders)
    recursed = _by_recursion(squared.clamp(min=SERIES_BELOW * 4 * smearing**2), smearing, inverse_screening, orders)
    return torch.where(near, series, recursed)


@_radial.register_fake
def _(squared: Tensor, smearing: float, inverse_screening: float, orders: int) -> Tensor:
    del smearing, inverse_screening
    return squared.new_empty((orders, *squared.shape))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    squared, ctx.smearing, ctx.inverse_screening, ctx.orders = inputs
    ctx.save_for_backward(squared)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (squared,) = ctx.saved_tensors
    next_orders = _radial(squared, ctx.smearing, ctx.inverse_screening, ctx.orders + 1)[1:]
    return -0.5 * (grad * next_orders).sum(0), None, None, None


_radial.register_autograd(_backward, setup_context=_keep)


def _by_series(squared: Tensor, smearing: float, inverse_screening: float, orders: int) -> Tensor:
    """Taylor series in r²: B_n = Σ_m (−r²/2)^m / m! B_{n+m}(0)."""
    at_zero = radial_at_zero(PairLaw(smearing, inverse_screening), orders=orders + SERIES_TERMS + 1)
    half = -0.5 * squared
    rows = []
    for order in range(orders):
        total = torch.full_like(squared, at_zero[order + SERIES_TERMS] / math.factorial(SERIES_TERMS))
        for power in range(SERIES_TERMS - 1, -1, -1):
            total = total.mul_(half).add_(at_zero[order + power] / math.factorial(power))
        rows.append(total)
    return torch.stack(rows)


def _by_recursion(squared: Tensor, smearing: float, inverse_screening: float, orders: int) -> Tensor:
    """From B₀ upwards.

    With u = r B₀, w = κ e^{κ²σ²}/2 [e^{−κr} erfc(κσ − r/2σ) + e^{κr} erfc(κσ + r/2σ)] and
    g = e^{−r²/4σ²}/(√π σ): u′ = g − w, w′ = −κ² u, g′ = −r g/(2σ²). Hence r² B₁ = B₀ + w − g, and, differentiated
    n times, r² B_{n+1} = (2n+1) B_n + κ² B_{n−1} − g/(2σ²)ⁿ.
    """
    kappa = inverse_screening
    distances = squared.sqrt()
    gaussian = torch.exp(squared / (-4 * smearing**2)) / (math.sqrt(math.pi) * smearing)
    if kappa == 0:
        rows = [torch.erf(distances / (2 * smearing)) / distances]
        even = torch.zeros_like(rows[0])
    else:
        scaled, offset = distances / (2 * smearing), kappa * smearing
        outward = math.exp(offset**2) / 2 * torch.exp(-kappa * distances) * torch.erfc(offset - scaled)
        inward = 0.5 * torch.exp(-scaled.square()) * torch.special.erfcx(offset + scaled)
        rows = [(outward - inward) / distances]
        even = kappa * (outward + inward)
    for order in range(orders - 1):
        rows.append(((2 * order + 1) * rows[-1] + even - gaussian) / squared)
        even = kappa**2 * rows[-2]
        gaussian = gaussian / (2 * smearing**2)
    return torch.stack(rows)
