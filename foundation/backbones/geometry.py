"""Neighbour geometry in a table padded per receiver, shared by all layers of a backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.nn.gather import take_rows


@dataclass(frozen=True)
class PaddedGeometry:
    """Every atom's neighbours in `width` slots; empty slots point to the atom itself from beyond the cutoff.

    Attributes:
        senders: `[atoms * width]`.
        distances: `[atoms * width]`, Å, parameter dtype.
        unit_vectors: `[atoms * width, 3]`, from receiver to sender.
        filled: `[atoms * width]`, which slots hold a neighbour.
        num_atoms: Rows.
        width: Slots a row.
    """

    senders: Int[Tensor, " slots"]
    distances: Float[Tensor, " slots"]
    unit_vectors: Float[Tensor, "slots 3"]
    filled: Bool[Tensor, " slots"]
    num_atoms: int
    width: int


def padded_geometry(graph: AtomGraph, *, cutoff: float, dtype: torch.dtype) -> PaddedGeometry:
    """Differences in float64, everything else in `dtype`; differentiable in positions and cell.

    Edges that have moved beyond the cutoff keep their slot: the envelope makes them zero.
    """
    num_atoms, width = graph.positions.shape[0], graph.max_neighbors
    shifts = torch.bmm(graph.slot_shifts.view(num_atoms, width, 3), take_rows(graph.cell, graph.graph_index))
    neighbors = take_rows(graph.positions, graph.slot_senders).view(num_atoms, width, 3)
    vectors = (neighbors - graph.positions[:, None] + shifts).view(-1, 3)
    # A number, not an array: an array would be copied from the host in every pass, which waits for the device.
    padded = torch.where(graph.slot_filled[:, None], vectors, 2.0 * cutoff).to(dtype)
    distances = padded.square().sum(1).sqrt()
    unit_vectors = padded / distances[:, None]
    return PaddedGeometry(graph.slot_senders, distances, unit_vectors, graph.slot_filled, num_atoms, width)
