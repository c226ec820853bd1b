"""Energies, potentials and matrices agree with each other and with finite differences, at all boundary conditions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foundation.config import validate
from foundation.cost.measure import peak_mbyte
from foundation.data.graph import AtomGraph
from foundation.electrostatics import Interaction, InteractionConfig, Sources, charged_cells, lattice, pairs
from foundation.electrostatics.lattice import periodic_groups
from foundation.errors import InputError

VARIANTS = [
    pytest.param(InteractionConfig(mesh_above=1000), id="direct"),
    pytest.param(InteractionConfig(mesh_above=0), id="mesh"),
    pytest.param(InteractionConfig(mesh_above=1000, screening_length=2.5), id="screened"),
    pytest.param(InteractionConfig(mesh_above=0, screening_length=2.5), id="screened-mesh"),
]


def with_state(graph: AtomGraph, positions: Tensor, strain: Tensor | None = None) -> AtomGraph:
    """A copy of the graph with other positions, and its crystals strained."""
    moved = graph.clone()
    moved.positions, moved.cell = positions, graph.cell
    if strain is not None:
        bulk = graph.pbc.all(1)[:, None, None]
        symmetric = torch.where(bulk, strain + strain.mT, 0.0) / 2
        moved.positions = positions + torch.einsum("na,nab->nb", positions, symmetric[graph.graph_index])
        moved.cell = graph.cell + graph.cell @ symmetric
    return moved


def slope(function: Callable[[float], Tensor]) -> Tensor:
    """Derivative at 0 by finite differences of fourth order."""
    step = 3e-4
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("config", VARIANTS)
def test_first_and_second_derivatives_are_finite_differences(
    config: InteractionConfig, mixed, batch, random_sources
) -> None:
    """By positions, strain, charges and dipoles, along random directions of each."""
    graph, interaction = batch(mixed), Interaction(config)
    sources = random_sources(graph)
    strain = torch.zeros(graph.num_graphs, 3, 3, dtype=torch.float64)
    origin = [graph.positions, strain, sources.charges, sources.dipoles]
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(graph.num_graphs, generator=generator, dtype=torch.float64)

    def energy_and_slope(values: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The energy and a number made of all its derivatives; both's derivatives; the arguments."""
        leaves = [value.detach().requires_grad_() for value in values]
        positions, strain, charges, dipoles = leaves
        energies = interaction.energy(Sources(charges, dipoles), with_state(graph, positions, strain))
        energy = (energies * weights).sum()
        gradients = torch.autograd.grad(energy, leaves, create_graph=True)
        summed = torch.stack([(gradient * probe).sum() for gradient, probe in zip(gradients, probes, strict=True)])
        return torch.stack([energy, summed.sum()]), list(gradients), leaves

    probes = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in origin]
    outputs, gradients, leaves = energy_and_slope(origin)
    seconds = torch.autograd.grad(outputs[1], leaves)
    for index, value in enumerate(origin):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)

        def along(distance: float, index: int = index, direction: Tensor = direction) -> Tensor:
            moved = [value + distance * direction if i == index else value for i, value in enumerate(origin)]
            return energy_and_slope(moved)[0].detach()

        analytic = torch.stack([(gradients[index] * direction).sum(), (seconds[index] * direction).sum()])
        torch.testing.assert_close(analytic, slope(along), rtol=1e-6, atol=1e-6)


def test_every_second_derivative_of_a_small_crystal_and_molecule(mixed, batch, random_sources) -> None:
    """By all coordinates, the cell, charges and dipoles, and all pairs of them."""
    (positions, cell, pbc), interaction = mixed[4], Interaction(InteractionConfig())
    graph = batch([(positions, cell, pbc), (positions, None, [False] * 3)])
    sources = random_sources(graph)
    inputs = [graph.positions, graph.cell, sources.charges, sources.dipoles]
    inputs = [value.clone().requires_grad_() for value in inputs]

    def energy(positions: Tensor, cell: Tensor, charges: Tensor, dipoles: Tensor) -> Tensor:
        moved = graph.clone()
        moved.positions, moved.cell = positions, cell
        return interaction.energy(Sources(charges, dipoles), moved)

    assert torch.autograd.gradcheck(energy, inputs, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, inputs, rtol=1e-6, atol=1e-6)


def test_a_permittivity_divides_every_interaction(mixed, batch, random_sources) -> None:
    graph = batch(mixed)
    sources = random_sources(graph)
    vacuum, medium = (Interaction(InteractionConfig(permittivity=value)) for value in (1.0, 1.78))
    for ours, theirs in [
        (medium.energy(sources, graph), vacuum.energy(sources, graph)),
        (medium.potential(sources, graph).values, vacuum.potential(sources, graph).values),
        (medium.potential(sources, graph).field, vacuum.potential(sources, graph).field),
        (medium.matrix(graph, with_dipoles=True), vacuum.matrix(graph, with_dipoles=True)),
    ]:
        torch.testing.assert_close(ours * 1.78, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", VARIANTS)
def test_potential_and_field_are_the_energys_derivatives_by_charges_and_dipoles(
    config: InteractionConfig, mixed, batch, random_sources
) -> None:
    graph, interaction = batch(mixed), Interaction(config)
    sources = random_sources(graph)
    charges, dipoles = sources.charges.requires_grad_(), sources.dipoles.requires_grad_()
    energies = interaction.energy(sources, graph)
    by_charges, by_dipoles = torch.autograd.grad(energies.sum(), [charges, dipoles])
    potential = interaction.potential(sources, graph)
    torch.testing.assert_close(potential.values, by_charges, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(potential.field, -by_dipoles, rtol=1e-12, atol=1e-11)
    halves = (charges * potential.values - (dipoles * potential.field).sum(1)) / 2
    summed = torch.zeros_like(energies).index_add(0, graph.graph_index, halves)
    torch.testing.assert_close(energies, summed, rtol=1e-12, atol=1e-11)
    without = interaction.potential(Sources(charges), graph)
    zero = interaction.potential(Sources(charges, torch.zeros_like(dipoles)), graph)
    torch.testing.assert_close(without.field, zero.field, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", VARIANTS)
def test_the_field_is_the_slope_of_the_potential(config: InteractionConfig, mixed, batch, random_sources) -> None:
    """Seen by a probe: an atom without charge and dipole."""
    graph, interaction = batch(mixed[:4]), Interaction(config)
    sources = random_sources(graph)
    probes = torch.cumsum(graph.num_atoms_per_graph, 0) - 1
    sources.charges[probes], sources.dipoles[probes] = 0.0, 0.0
    graph.positions.requires_grad_()
    potential = interaction.potential(sources, graph)
    (slopes,) = torch.autograd.grad(potential.values[probes].sum(), graph.positions)
    torch.testing.assert_close(potential.field[probes], -slopes[probes], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("with_dipoles", [False, True])
@pytest.mark.parametrize("screening_length", [None, 2.5])
def test_the_matrix_gives_the_energy_and_its_derivatives(
    with_dipoles: bool, screening_length: float | None, mixed, batch, random_sources
) -> None:
    graph, interaction = batch(mixed), Interaction(InteractionConfig(screening_length=screening_length))
    sources = random_sources(graph)
    values = sources.charges[:, None]
    if with_dipoles:
        values = torch.cat([values, sources.dipoles], dim=1)
    else:
        sources = Sources(sources.charges)
    width = int(graph.num_atoms_per_graph.max())
    starts = torch.cumsum(graph.num_atoms_per_graph, 0) - graph.num_atoms_per_graph
    table = torch.zeros(graph.num_graphs, width, values.shape[1], dtype=torch.float64)
    table[graph.graph_index, torch.arange(len(values)) - starts[graph.graph_index]] = values
    vectors = table.transpose(1, 2).flatten(1)
    results = []
    for by_matrix in (True, False):
        positions = graph.positions.clone().requires_grad_()
        strain = torch.zeros(graph.num_graphs, 3, 3, dtype=torch.float64, requires_grad=True)
        moved = with_state(graph, positions, strain)
        if by_matrix:
            matrix = interaction.matrix(moved, with_dipoles=with_dipoles)
            energies = torch.einsum("gi,gij,gj->g", vectors, matrix, vectors) / 2
            torch.testing.assert_close(matrix, matrix.mT, rtol=0, atol=1e-12)
            empty = (table.abs().sum(2) == 0)[:, None].expand(-1, values.shape[1], -1).flatten(1)
            assert (matrix[empty] == 0).all()
        else:
            energies = interaction.energy(sources, moved)
        first = torch.autograd.grad(energies.sum(), [positions, strain], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), [positions, strain])
        results.append([energies, *first, *second])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("config", VARIANTS)
def test_a_mixed_batch_is_each_structure_alone(config: InteractionConfig, mixed, batch, random_sources) -> None:
    graph, interaction = batch(mixed), Interaction(config)
    sources = random_sources(graph)
    energies, potential = interaction.energy(sources, graph), interaction.potential(sources, graph)
    for index, structure in enumerate(mixed):
        own = graph.graph_index == index
        alone, part = batch([structure]), Sources(sources.charges[own], sources.dipoles[own])
        torch.testing.assert_close(interaction.energy(part, alone)[0], energies[index], rtol=1e-10, atol=1e-10)
        found = interaction.potential(part, alone)
        torch.testing.assert_close(found.values, potential.values[own], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.field, potential.field[own], rtol=1e-10, atol=1e-10)


def test_groups_that_are_cut_to_fit_into_memory_give_the_same(
    mixed, batch, random_sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = batch([*mixed, *mixed])
    sources, interaction = random_sources(graph), Interaction(InteractionConfig())
    repeats = graph.pbc.any(1)
    whole, number = interaction.energy(sources, graph), len(periodic_groups(graph, repeats, interaction.law))
    monkeypatch.setattr(lattice, "TABLE_ELEMENTS", 1.0)
    assert number < len(periodic_groups(graph, repeats, interaction.law)) == int(repeats.sum())
    torch.testing.assert_close(interaction.energy(sources, graph), whole, rtol=1e-12, atol=1e-12)


def test_pairs_that_are_cut_to_fit_into_memory_give_the_same_derivatives(
    mixed, batch, random_sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Energies and fields, their slopes, and the slopes of these, which training on forces needs."""
    graph = batch([mixed[3], mixed[5], mixed[3]])
    sources, interaction = random_sources(graph), Interaction(InteractionConfig())

    def found() -> list[Tensor]:
        leaves = [graph.positions.clone(), sources.charges.clone(), sources.dipoles.clone()]
        moved, charges, dipoles = (leaf.requires_grad_(True) for leaf in leaves)
        state = with_state(graph, moved)
        potential = interaction.potential(Sources(charges, dipoles), state)
        energy = interaction.energy(Sources(charges, dipoles), state)
        total = energy.sum() + (potential.values.sin() + potential.field.cos().sum(1)).sum()
        first = torch.autograd.grad(total, (moved, charges, dipoles), create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), (moved, charges, dipoles))
        return [energy, potential.values, potential.field, *first, *second]

    whole = found()
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 7)
    for cut, expected in zip(found(), whole, strict=True):
        torch.testing.assert_close(cut, expected, rtol=1e-11, atol=1e-11)


def test_memory_of_all_pairs_does_not_grow_with_their_number(batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of energy and forces of 300 atoms: 44,850 pairs at once, or 2,048."""
    positions = torch.cartesian_prod(*[2 * torch.arange(7, dtype=torch.float64)] * 3)[:300]
    graph, interaction = batch([(positions, None, (False, False, False))]), Interaction(InteractionConfig())
    sources = Sources(torch.ones(300, dtype=torch.float64), torch.ones(300, 3, dtype=torch.float64))

    def forces() -> None:
        moved = graph.positions.clone().requires_grad_(True)
        torch.autograd.grad(interaction.energy(sources, with_state(graph, moved)).sum(), moved)

    whole = peak_mbyte(forces, device=torch.device("cpu"), held=[])
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 2048)
    assert peak_mbyte(forces, device=torch.device("cpu"), held=[]) < whole / 5


class CountOperators(TorchDispatchMode):
    """Counts the operators that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cell_length", [None, 6.0])
def test_no_loop_over_the_structures_of_a_batch(cell_length: float | None, batch, random_sources) -> None:
    """64 structures of 64 different sizes take as many operators as 2 of the smallest and largest size."""
    generator = torch.Generator().manual_seed(0)
    cell = None if cell_length is None else cell_length * torch.eye(3, dtype=torch.float64)
    pbc = [cell_length is not None] * 3
    structures = [
        (6 * torch.rand(2 + size, 3, generator=generator, dtype=torch.float64), cell, pbc) for size in range(64)
    ]

    def operators(chosen: list) -> int:
        graph = batch(chosen)
        graph.positions.requires_grad_()
        sources, counter = random_sources(graph), CountOperators()
        with counter:
            energies = Interaction(InteractionConfig()).energy(sources, graph)
            (forces,) = torch.autograd.grad(energies.sum(), graph.positions, create_graph=True)
            torch.autograd.grad(forces.square().sum(), graph.positions)
        return counter.count

    few, many = operators([structures[0], structures[-1]]), operators(structures)
    # Crystals go in a few groups of similar sizes, of which sizes in between may make one more.
    assert many <= few * (1 if cell is None else 1.6)


def test_faults_of_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"screening_length 0.2 Å is below a third of smearing"):
        validate(InteractionConfig, {"screening_length": 0.2}, where="recipe")
    with pytest.raises(InputError, match="smearing"):
        validate(InteractionConfig, {"smearing": 0.0}, where="recipe")


def test_charged_cells_are_found(mixed, batch: Callable[..., AtomGraph]) -> None:
    graph = batch(mixed)
    graph.total_charge = torch.tensor([1.0, 1.0, -1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert charged_cells(graph).tolist() == [True, True, True, False, False, False]
