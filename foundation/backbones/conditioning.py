"""What every backbone shares at its start: the table of elements and the first scalar features."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.nn.gather import take_rows
from foundation.nn.linear import ScaledLinear


class ElementTable(nn.Module):
    """Where each atomic number stands among the elements; 0, a hidden atom, has a place too."""

    index: Int[Tensor, " numbers"]

    def __init__(self, elements: tuple[int, ...]) -> None:
        super().__init__()
        # An unknown element must fail, not read another's row: this index is out of every table's range.
        index = torch.full((119,), 10**6, dtype=torch.int64)
        index[0] = len(elements)
        index[list(elements)] = torch.arange(len(elements))
        self.register_buffer("index", index, persistent=False)
        self.size = len(elements) + 1

    def forward(self, atomic_numbers: Int[Tensor, " atoms"]) -> Int[Tensor, " atoms"]:
        return self.index[atomic_numbers]


class Conditioning(nn.Module):
    """First scalar features: element, shifted and scaled by total charge, spin and level of theory."""

    def __init__(self, *, num_elements: int, num_levels: int, channels: int, use_charge: bool) -> None:
        super().__init__()
        self.element = nn.Parameter(torch.randn(num_elements, channels))
        self.level = nn.Parameter(torch.zeros(num_levels, channels))
        self.state = ScaledLinear(3, channels) if use_charge else None
        self.mix = ScaledLinear(channels, 2 * channels)

    def forward(self, graph: AtomGraph, element_index: Int[Tensor, " atoms"]) -> Float[Tensor, "atoms channels"]:
        context = self.level[graph.level_index]
        if self.state is not None:
            charge = graph.total_charge.to(context.dtype)
            unpaired = (graph.spin_multiplicity - 1).to(context.dtype)
            state = torch.stack([charge.clamp(min=0), (-charge).clamp(min=0), unpaired], dim=1)
            context = context + self.state(state)
        scale, shift = take_rows(self.mix(context), graph.graph_index).chunk(2, dim=1)
        return take_rows(self.element, element_index) * (1 + scale) + shift
