"""Radial functions at edges: from their values at knots, and by the elements at both ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foundation.nn.gather import take_rows
from foundation.nn.splines import interpolated

__all__ = ["ElementPairs", "Slots", "few_enough"]

MOST_ROWS = 1024
"""Of the tables for all pairs of elements: 8 aspirins have 3,360 slots, and 270 rows of tables."""


class Slots(NamedTuple):
    """Where radial functions are wanted.

    Attributes:
        splines: From `SplineBasis.at`; None: the radial network is evaluated in every slot.
        pairs: Number of elements times the receiver's plus the sender's; None where elements play no part.
    """

    splines: Float[Tensor, "slots *knots"] | None
    pairs: Int[Tensor, " slots"] | None

    def functions(self, values: Float[Tensor, "*pairs rows functions"]) -> Float[Tensor, "slots functions"]:
        """Radial functions of every slot from their values at knots, for each pair of elements if pairs play a part."""
        return values if self.splines is None else interpolated(values, self.splines, self.pairs)


def few_enough(num_elements: int, num_knots: int) -> bool:
    """Whether a table for each pair of elements is less work than the radial functions of every edge."""
    return num_elements**2 * num_knots <= MOST_ROWS


class ElementPairs(nn.Module):
    """Scales of the radial network's outputs: one factor for the element of each end of an edge, 1 at the start."""

    def __init__(self, *, num_elements: int, width: int) -> None:
        super().__init__()
        self.sender = nn.Parameter(torch.zeros(num_elements, width))
        self.receiver = nn.Parameter(torch.zeros(num_elements, width))

    def forward(self, hidden: Float[Tensor, "rows width"], slots: Slots) -> Float[Tensor, "*pairs rows width"]:
        """The radial network for every pair of elements at all knots; where `slots` have no splines, in every slot."""
        factors = ((1 + self.receiver[:, None]) * (1 + self.sender)).flatten(0, 1)
        if slots.splines is not None:
            return hidden * factors[:, None]
        assert slots.pairs is not None
        return hidden * take_rows(factors, slots.pairs)
