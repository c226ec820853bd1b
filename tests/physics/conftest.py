"""Structures of the physics tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ase import Atoms

from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., AtomGraph]:
    """Makes a batch of structures with edges up to 4 Å."""

    def make(*structures: Atoms) -> AtomGraph:
        graphs = [
            build_graph(
                positions=atoms.positions,
                atomic_numbers=atoms.numbers,
                total_charge=0.0,
                spin_multiplicity=1,
                cell=atoms.cell.array if atoms.pbc.any() else None,
                pbc=atoms.pbc,
            )
            for atoms in structures
        ]
        return collate([with_neighbors(graph, 4.0) for graph in graphs])

    return make
