"""One merged equivariant norm that leaves ordinary features alone and bounds those of atoms that are much too close."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

BOUND = 3.0
"""Root mean square that features approach but never exceed; they start at 1 (`foundation.nn.linear.calibrated`)."""


def bounded(
    features: Float[Tensor, "atoms components channels"],
) -> Float[Tensor, "atoms components channels"]:
    """x / sqrt(1 + ms(x) / BOUND²), ms(x) the mean square over all components and channels of an atom.

    Products of neighbour sums grow with their cube, layer after layer: without a bound, one short contact reached 10¹⁶
    in the second layer. The map is smooth, keeps zero and its derivatives at the cutoff, and does not turn anything.
    """
    mean_square = features.square().mean(dim=(1, 2), keepdim=True)
    return features * torch.rsqrt(1 + mean_square / BOUND**2)
