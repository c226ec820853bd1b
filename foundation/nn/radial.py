"""Radial functions: Bessel basis, polynomial envelope and the network that mixes them."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.nn.linear import Level, ScaledLinear


class BesselBasis(nn.Module):
    """n^-d sqrt(2/c) sin(nπr/c)/r for n = 1 … num_basis; `[rows] -> [rows, num_basis]`, r in Å.

    The weights n^-d, `decay` d, make slow radial functions cheap and fast ones dear: with d = 0 a model of 50 labels
    fits them with wiggles between the distances that it has seen (`benchmarks/backbones/ablations.md`).

    Source: Gasteiger et al., ICLR 2020 (DimeNet), eq. 7; the weights are our own.
    """

    frequencies: Float[Tensor, " basis"]
    factors: Float[Tensor, " basis"]

    def __init__(self, num_basis: int, cutoff: float, *, decay: float) -> None:
        super().__init__()
        order = torch.arange(1, num_basis + 1, dtype=torch.float64)
        self.register_buffer("frequencies", order * (math.pi / cutoff), persistent=False)
        self.register_buffer("factors", math.sqrt(2.0 / cutoff) * order**-decay, persistent=False)

    def forward(self, distances: Float[Tensor, " rows"]) -> Float[Tensor, "rows basis"]:
        column = distances[:, None]
        waves = torch.sin(column * self.frequencies.to(distances.dtype))
        return waves * self.factors.to(distances.dtype) / column


def envelope(distances: Float[Tensor, " rows"], cutoff: float) -> Float[Tensor, " rows"]:
    """(1-x)⁴(1+4x+10x²+20x³), x = r/cutoff: 1 at r = 0 and zero with three derivatives at the cutoff; zero beyond."""
    ratio = (distances / cutoff).clamp(max=1.0)
    return (1 - ratio) ** 4 * (1 + ratio * (4 + ratio * (10 + 20 * ratio)))


class RadialTrunk(nn.Module):
    """Bessel functions through a small MLP: `[rows] -> [rows, width]`. The envelope is applied later, by the caller."""

    def __init__(
        self, *, num_basis: int, decay: float, width: int, num_hidden: int, cutoff: float, num_levels: int = 0
    ) -> None:
        super().__init__()
        self.basis = BesselBasis(num_basis, cutoff, decay=decay)
        sizes = [num_basis] + [width] * num_hidden
        self.layers = nn.ModuleList(ScaledLinear(a, b, num_levels=num_levels) for a, b in itertools.pairwise(sizes))

    def forward(self, distances: Float[Tensor, " rows"], level: Level | None = None) -> Float[Tensor, "rows width"]:
        hidden = self.basis(distances)
        for layer in self.layers:
            hidden = nn.functional.silu(layer(hidden, level)) * SILU_SECOND_MOMENT
        return hidden


SILU_SECOND_MOMENT = 1.6765324703310907
"""1/sqrt(E[silu(x)²]) for x ~ N(0, 1): keeps unit variance through the activation."""
