"""Graphs as compiled functions take them: plain tensors, without the machinery of torch-geometric."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from foundation.data.graph import AtomGraph

__all__ = ["PlainGraph", "padded_width", "plain_tensors"]

WIDTH_STEP = 4
"""Neighbour tables are padded to multiples of this, so that fewer sizes occur."""

_PER_GRAPH_AND_ATOM = (
    "atomic_numbers",
    "cell",
    "pbc",
    "total_charge",
    "spin_multiplicity",
    "level_index",
    "external_field",
    "graph_index",
    "num_atoms_per_graph",
)


class PlainGraph:
    """The tensors of an `AtomGraph` of one level of theory, without the machinery that cannot be traced.

    Attributes:
        pairs: All pairs of atoms of the same molecule; only where a model with electrostatics reads them.
    """

    pairs: Int[Tensor, "two pairs"]

    def __init__(self, tensors: dict[str, Tensor], num_graphs: int, max_neighbors: int) -> None:
        for name, tensor in tensors.items():
            setattr(self, name, tensor)
        self.num_graphs = num_graphs
        self.num_levels = 1
        self.max_neighbors = max_neighbors


def plain_tensors(graph: AtomGraph, edge_fields: Sequence[str]) -> tuple[dict[str, Tensor], int]:
    """All that a model reads of a graph but positions, and how many slots an atom has, after padding.

    Args:
        graph: A batch.
        edge_fields: What the backbone reads of edges.
    """
    tensors = {name: graph[name] for name in (*_PER_GRAPH_AND_ATOM, *edge_fields)}
    width = graph.max_neighbors
    return tensors, _widen(tensors, width) if "slot_senders" in tensors else width


def padded_width(width: int) -> int:
    """The next multiple of `WIDTH_STEP`."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


def _widen(tensors: dict[str, Tensor], width: int) -> int:
    """Add empty slots to the neighbour table, in place, up to the next multiple of `WIDTH_STEP`."""
    wider = padded_width(width)
    missing = wider - width
    if missing:
        atoms = len(tensors["atomic_numbers"])
        own = torch.arange(atoms, device=tensors["slot_senders"].device)[:, None].expand(-1, missing)
        tensors["slot_senders"] = torch.cat([tensors["slot_senders"].view(atoms, width), own], dim=1).flatten()
        pad = nn.functional.pad
        tensors["slot_shifts"] = pad(tensors["slot_shifts"].view(atoms, width, 3), (0, 0, 0, missing)).flatten(0, 1)
        tensors["slot_filled"] = pad(tensors["slot_filled"].view(atoms, width), (0, missing)).flatten()
    return wider
