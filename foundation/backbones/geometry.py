"""Geometry of pairs of atoms and the table that lists them for each atom, shared by all layers of a backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.nn.gather import take_rows


@dataclass(frozen=True)
class PairGeometry:
    """Pairs of neighbours, each once, and every atom's neighbours in `width` slots.

    What depends on distances is computed for pairs, of which there are about a third as many as slots, and looked up
    from there. Empty slots point to the atom itself and to a pair that is beyond the cutoff.

    Attributes:
        distances: `[pairs]`, Å, parameter dtype.
        unit_vectors: `[pairs, 3]`, from receiver to sender.
        senders: `[atoms * width]`.
        pairs: `[atoms * width]`, into tables with a row a pair.
        edges: `[atoms * width]`, into tables with a row a pair and then a row a pair for the reverse.
        num_atoms: Rows of the table of slots.
        width: Slots a row.
    """

    distances: Float[Tensor, " pairs"]
    unit_vectors: Float[Tensor, "pairs 3"]
    senders: Int[Tensor, " slots"]
    pairs: Int[Tensor, " slots"]
    edges: Int[Tensor, " slots"]
    num_atoms: int
    width: int


def pair_geometry(graph: AtomGraph, *, cutoff: float, dtype: torch.dtype) -> PairGeometry:
    """Differences in float64, everything else in `dtype`; differentiable in positions and cell.

    Edges that have moved beyond the cutoff keep their slot: the envelope makes them zero.
    """
    cells = take_rows(graph.cell, take_rows(graph.graph_index, graph.pair_receivers))
    shifts = (graph.pair_shifts[:, :, None] * cells).sum(1)
    differences = take_rows(graph.positions, graph.pair_senders) - take_rows(graph.positions, graph.pair_receivers)
    # A number, not an array: an array would be copied from the host in every pass, which waits for the device.
    vectors = torch.where(graph.pair_filled[:, None], differences + shifts, 2.0 * cutoff).to(dtype)
    distances = vectors.square().sum(1).sqrt()
    return PairGeometry(
        distances,
        vectors / distances[:, None],
        senders=graph.slot_senders,
        pairs=graph.slot_pairs,
        edges=graph.slot_pairs + graph.slot_reversed * len(distances),
        num_atoms=graph.positions.shape[0],
        width=graph.max_neighbors,
    )
