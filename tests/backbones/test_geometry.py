"""Pairs and the table of slots say what the list of edges says."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from foundation.backbones.geometry import pair_geometry
from foundation.data.graph import AtomGraph, build_graph, collate, edge_vectors, fill_slots
from foundation.data.neighbors import with_neighbors

CUTOFF = 4.0
STRUCTURES = [molecule("CH3CH2OH"), bulk("Si"), Atoms("He"), bulk("NaCl", "rocksalt", a=5.64)]
"""The second sees many images of itself within the cutoff, the third nothing."""


def batch(*structures: Atoms) -> AtomGraph:
    graphs = []
    for atoms in structures:
        atoms = atoms.copy()
        atoms.rattle(0.05, seed=1)
        cell = atoms.cell.array if atoms.pbc.any() else None
        graph = build_graph(
            positions=atoms.positions,
            atomic_numbers=atoms.numbers,
            total_charge=0.0,
            spin_multiplicity=1,
            cell=cell,
            pbc=atoms.pbc,
        )
        graphs.append(with_neighbors(graph, CUTOFF))
    return collate(graphs)


def check(graph: AtomGraph) -> None:
    """Vectors in filled slots, in order, are those of the edges; empty slots are beyond the cutoff."""
    geometry = pair_geometry(graph, cutoff=CUTOFF, dtype=torch.float64)
    vectors = geometry.unit_vectors * geometry.distances[:, None]
    in_slots = torch.cat([vectors, -vectors])[geometry.edges]
    filled = graph.pair_filled[geometry.pairs]
    expected = edge_vectors(graph, graph.positions, graph.cell)
    torch.testing.assert_close(in_slots[filled], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(geometry.senders[filled], graph.senders)
    rows = torch.arange(geometry.num_atoms).repeat_interleave(geometry.width)
    assert torch.equal(rows[filled], graph.receivers)
    assert bool((geometry.distances[geometry.pairs[~filled]] > CUTOFF).all())


@pytest.mark.parametrize("structures", [STRUCTURES, *([one] for one in STRUCTURES)])
def test_slots_hold_the_edges_and_pairs_hold_each_edge_with_its_reverse(structures: list[Atoms]) -> None:
    graph = batch(*structures)
    check(graph)
    assert 2 * (len(graph.pair_senders) - 1) == len(graph.senders)


def test_an_edge_without_its_reverse_is_a_pair_alone() -> None:
    graph = batch(*STRUCTURES)
    kept = torch.arange(len(graph.senders)) % 3 > 0
    graph.senders, graph.receivers, graph.edge_shifts = (
        values[kept] for values in (graph.senders, graph.receivers, graph.edge_shifts)
    )
    fill_slots(graph)
    check(graph)
    assert 2 * (len(graph.pair_senders) - 1) > len(graph.senders)
