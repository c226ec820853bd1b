"""Real spherical harmonics by recursion in the components of unit vectors, differentiable as often as one likes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SphericalHarmonics(nn.Module):
    """Y_0 … Y_degree of unit vectors, component normalised, e3nn's order: `[rows, 3] -> [rows, (degree+1)²]`.

    Y_lm = N_lm Q_lm(y) times the real (m ≥ 0) or imaginary (m < 0) part of (z + ix)^|m|, y the polar axis as in e3nn.
    Each step multiplies numbers of one row, so that a compiler makes one loop of all of them and their derivatives.

    Source: the recursion of Q_lm = P_lm / sin^m in Bigi et al., J. Chem. Phys. 159, 064802 (2023).
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, unit_vectors: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows components"]:
        x, y, z = unit_vectors.unbind(1)
        legendre = _legendre(y, self.degree)
        real: list[Tensor | float] = [1.0, z]
        imaginary: list[Tensor | float] = [0.0, x]
        for _ in range(1, self.degree):
            before, behind = real[-1], imaginary[-1]
            real.append(z * before - x * behind)
            imaginary.append(z * behind + x * before)
        columns = [torch.ones_like(y)]
        for degree in range(1, self.degree + 1):
            for order in range(-degree, degree + 1):
                turning = imaginary[-order] if order < 0 else real[order]
                column = _norm(degree, abs(order)) * legendre[degree, abs(order)] * turning
                assert isinstance(column, Tensor)
                columns.append(column)
        return torch.stack(columns, dim=1)


def _legendre(y: Tensor, degree: int) -> dict[tuple[int, int], Tensor | float]:
    """P_lm(y) / (1-y²)^(m/2), no Condon–Shortley phase, for 0 ≤ m ≤ l ≤ degree: polynomials; numbers where l = m."""
    found: dict[tuple[int, int], Tensor | float] = {}
    for order in range(degree + 1):
        found[order, order] = float(math.prod(range(1, 2 * order, 2)))
        if order < degree:
            found[order + 1, order] = ((2 * order + 1) * found[order, order]) * y
        for upper in range(order + 2, degree + 1):
            first = (2 * upper - 1) / (upper - order)
            second = (upper + order - 1) / (upper - order)
            found[upper, order] = first * y * found[upper - 1, order] - second * found[upper - 2, order]
    return found


def _norm(degree: int, order: int) -> float:
    """Σ_m Y_lm² = 2l + 1."""
    ratio = math.factorial(degree - order) / math.factorial(degree + order)
    return math.sqrt((2 * degree + 1) * ratio * (2 if order else 1))
