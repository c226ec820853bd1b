"""Structures of all boundary conditions, and random sources for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import Sources

Structure = tuple[Tensor, Tensor | None, Sequence[bool]]
"""Positions, cell and which directions repeat."""


def _batch(structures: Sequence[Structure]) -> AtomGraph:
    graphs = []
    for positions, cell, pbc in structures:
        graph = build_graph(
            positions=positions.numpy(),
            atomic_numbers=[1] * len(positions),
            total_charge=0.0,
            spin_multiplicity=1,
            cell=None if cell is None else cell.numpy(),
            pbc=pbc,
        )
        graphs.append(with_neighbors(graph, cutoff=0.5))
    return collate(graphs)


@pytest.fixture(scope="session")
def batch() -> Callable[[Sequence[Structure]], AtomGraph]:
    """Makes a batch of structures."""
    return _batch


@pytest.fixture(scope="session")
def mixed() -> list[Structure]:
    """A crystal, a slab, a wire and a molecule with oblique cells; the free directions' vectors are of any kind."""
    generator = torch.Generator().manual_seed(0)
    cell = torch.tensor([[5.0, 0.4, -0.3], [0.9, 5.5, 0.6], [-0.5, 0.8, 4.5]], dtype=torch.float64)
    fractions = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    without = cell.clone()
    without[1] = 0
    return [
        (fractions @ cell, cell, (True, True, True)),
        (fractions[:4] @ cell, without, (True, False, True)),
        (fractions[1:4] @ cell, cell, (False, True, False)),
        (fractions[:5] @ cell, None, (False, False, False)),
        (fractions[2:4] @ cell, 0.8 * cell, (True, True, True)),
        (fractions[:1] @ cell, None, (False, False, False)),
    ]


@pytest.fixture(scope="session")
def random_sources() -> Callable[[AtomGraph], Sources]:
    """Charges that sum to zero in each graph, and dipoles."""

    def make(graph: AtomGraph) -> Sources:
        generator = torch.Generator().manual_seed(1)
        charges = torch.randn(len(graph.positions), generator=generator, dtype=torch.float64)
        sums = torch.zeros(graph.num_graphs, dtype=torch.float64).index_add(0, graph.graph_index, charges)
        charges = charges - (sums / graph.num_atoms_per_graph)[graph.graph_index]
        return Sources(charges, 0.3 * torch.randn(len(charges), 3, generator=generator, dtype=torch.float64))

    return make
