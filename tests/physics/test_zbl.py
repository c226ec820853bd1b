"""Screened nuclear repulsion: the published curve at small distances, nothing from the sum of the radii on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii

from foundation.data.graph import AtomGraph
from foundation.derive import deformed, forces_and_stress, undeformed
from foundation.physics import ZBLConfig, ZBLRepulsion

Graph = Callable[..., AtomGraph]
CUTOFF = 4.0
TABLE = ("slot_senders", "slot_shifts", "slot_filled")
LIST = ("senders", "receivers", "edge_shifts")
EDGE_FIELDS = pytest.mark.parametrize("edge_fields", [TABLE, LIST], ids=["table", "list"])


def repulsion(edge_fields: tuple[str, ...] = TABLE, *, cutoff: float = CUTOFF) -> ZBLRepulsion:
    return ZBLRepulsion(ZBLConfig(), cutoff=cutoff, edge_fields=edge_fields)


def squeezed(atoms: Atoms) -> Atoms:
    """Closer than it likes to be, so that many pairs repel each other."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        atoms.set_cell(atoms.cell.array @ (0.7 * np.eye(3) + [[0, 0.04, 0], [0, 0, 0.02], [0.03, 0, 0]]), True)
    else:
        atoms.positions *= 0.75
    atoms.rattle(0.05, seed=1)
    return atoms


CRYSTAL = squeezed(bulk("NaCl", "rocksalt", a=5.64))
MOLECULE = squeezed(molecule("CH3CH2OH"))


def universal(first: int, second: int, distance: float) -> float:
    """Ziegler, Biersack and Littmark's potential without envelope, with LAMMPS' rounded constants."""
    length = 0.46850 / (first**0.23 + second**0.23)
    weights, exponents = (0.18175, 0.50986, 0.28022, 0.02817), (3.19980, 0.94229, 0.40290, 0.20162)
    screening = sum(w * np.exp(-e * distance / length) for w, e in zip(weights, exponents, strict=True))
    return 14.399645 * first * second / distance * screening


@EDGE_FIELDS
@pytest.mark.parametrize(("first", "second"), [(1, 1), (6, 8), (14, 79)])
def test_a_pair_follows_the_published_curve_under_the_envelope(
    graph_of: Graph, edge_fields: tuple[str, ...], first: int, second: int
) -> None:
    reach = covalent_radii[first] + covalent_radii[second]
    for distance in (0.12, 0.3, 0.5 * reach, 0.9 * reach):
        pair = graph_of(Atoms(numbers=[first, second], positions=[[0, 0, 0], [0, 0, distance]]))
        x = distance / reach
        envelope = (1 - x) ** 4 * (1 + 4 * x + 10 * x**2 + 20 * x**3)
        expected = universal(first, second, distance) * envelope
        assert repulsion(edge_fields)(pair).item() == pytest.approx(expected, rel=1e-3)


def test_energy_and_three_derivatives_vanish_at_the_sum_of_the_radii_or_the_cutoff(graph_of: Graph) -> None:
    def derivatives(distance: float, cutoff: float) -> list[float]:
        pair = graph_of(Atoms("Cs2", positions=[[0, 0, 0], [0, 0, 2.0]]))
        separation = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        pair.positions = torch.zeros(2, 3, dtype=torch.float64)
        pair.positions = torch.stack([pair.positions[0], torch.stack([separation * 0, separation * 0, separation])])
        value = repulsion(cutoff=cutoff)(pair)[0]
        found = [value.item()]
        for _ in range(3):
            (value,) = torch.autograd.grad(value, separation, create_graph=True)
            found.append(value.item())
        return found

    for cutoff in (3.0, 10.0):
        reach = min(cutoff, 2 * covalent_radii[55])
        near = derivatives(reach * (1 - 1e-6), cutoff)
        assert derivatives(0.9 * reach, cutoff)[0] > 1e-5
        # E''' falls linearly to zero, E'' with the square, and so on.
        assert [abs(value) < bound for value, bound in zip(near, (1e-20, 1e-14, 1e-8, 1e-2), strict=True)] == [True] * 4
        assert derivatives(reach * (1 + 1e-6), cutoff) == [0.0] * 4


@EDGE_FIELDS
@pytest.mark.parametrize("atoms", [MOLECULE, CRYSTAL], ids=["molecule", "crystal smaller than the cutoff"])
def test_first_and_second_derivatives_are_right(graph_of: Graph, edge_fields: tuple[str, ...], atoms: Atoms) -> None:
    graph, term = graph_of(atoms), repulsion(edge_fields)
    deformation = undeformed(graph, with_strain=True)
    assert deformation.strain is not None

    def energy(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        moved = copy.copy(graph)
        moved.positions, moved.cell = deformed(graph, type(deformation)(positions, strain))
        return term(moved)

    leaves = (deformation.positions, deformation.strain)
    assert energy(*leaves).item() > 1.0
    assert torch.autograd.gradcheck(energy, leaves, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(energy, leaves, atol=1e-6, rtol=1e-6)


def test_table_and_list_batching_permutation_and_repeated_cells_agree(graph_of: Graph) -> None:
    structures = [MOLECULE, CRYSTAL, Atoms("He")]
    single = torch.cat([repulsion()(graph_of(atoms)) for atoms in structures])
    assert single[2].item() == 0.0
    for edge_fields in (TABLE, LIST):
        torch.testing.assert_close(repulsion(edge_fields)(graph_of(*structures)), single, rtol=1e-12, atol=0.0)
    order = np.random.default_rng(0).permutation(len(MOLECULE))
    torch.testing.assert_close(repulsion()(graph_of(MOLECULE[order])), single[:1], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(repulsion()(graph_of(CRYSTAL * (2, 1, 3))), 6 * single[1:2], rtol=1e-12, atol=0.0)


def test_forces_push_apart_and_come_out_of_the_shared_derivative(graph_of: Graph) -> None:
    graph = graph_of(Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.7]]))
    deformation = undeformed(graph, with_strain=False)
    moved = copy.copy(graph)
    moved.positions, moved.cell = deformed(graph, deformation)
    forces, stress = forces_and_stress(repulsion()(moved), graph, deformation, create_graph=False)
    assert stress is None
    assert forces[1, 2] > 1.0
    torch.testing.assert_close(forces[0], -forces[1])


def test_bonds_of_usual_length_hardly_feel_it_and_the_heaviest_elements_have_a_radius(graph_of: Graph) -> None:
    for name in ("CH3CH2OH", "C6H6", "SO2", "CO2"):
        assert repulsion()(graph_of(molecule(name))).item() < 0.5
    near = graph_of(Atoms("Og2", positions=[[0, 0, 0], [0, 0, 2.0]]))
    assert repulsion()(near).item() > 1.0
