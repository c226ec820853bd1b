"""Spherical harmonics as projections of tensor powers: few matrix products, cheap to differentiate twice."""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn


def projector(degree: int) -> Float[Tensor, "power m"]:
    """Matrix that takes the l-th tensor power of a unit vector, `[3**l]`, to Y_l, `[2l+1]`, component normalised.

    Built by coupling Y_{l-1} with Y_1 and fixing the scale on one vector against e3nn.
    """
    if degree == 0:
        return torch.ones(1, 1, dtype=torch.float64)
    coupled = torch.eye(3, dtype=torch.float64)
    for lower in range(1, degree):
        coupling = o3.wigner_3j(lower, 1, lower + 1, dtype=torch.float64)
        coupled = torch.einsum("pa,abc->pbc", coupled, coupling).reshape(3 ** (lower + 1), 2 * lower + 3)
    probe = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    expected = o3.spherical_harmonics(degree, probe, normalize=True, normalization="component")
    found = tensor_power(probe[None], degree)[0] @ coupled
    return coupled * (expected @ found) / (found @ found)


def tensor_power(vectors: Float[Tensor, "rows 3"], degree: int) -> Float[Tensor, "rows power"]:
    """l-th tensor power of each vector, `[rows, 3**l]`; ones for l = 0."""
    power = torch.ones_like(vectors[:, :1])
    for _ in range(degree):
        power = (power[:, :, None] * vectors[:, None, :]).reshape(len(vectors), -1)
    return power


class SphericalHarmonics(nn.Module):
    """Y_0 … Y_degree of unit vectors, component normalised, e3nn's order: `[rows, 3] -> [rows, (degree+1)²]`."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        for order in range(2, degree + 1):
            self.register_buffer(f"projector_{order}", projector(order), persistent=False)

    def forward(self, unit_vectors: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows components"]:
        harmonics = [torch.ones_like(unit_vectors[:, :1])]
        if self.degree >= 1:
            harmonics.append(unit_vectors * 3**0.5)
        power = unit_vectors
        for order in range(2, self.degree + 1):
            power = (power[:, :, None] * unit_vectors[:, None, :]).flatten(1)
            harmonics.append(power @ self.get_buffer(f"projector_{order}").to(power.dtype))
        return torch.cat(harmonics, dim=1)
