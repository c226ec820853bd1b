"""The mesh against the direct sum and another program; energies that are smooth while the cell changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foundation.electrostatics import Interaction, InteractionConfig, Sources
from foundation.units import COULOMB_CONSTANT


def ionic_crystal(*, repeats: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, cell and charges of rock salt, its atoms displaced and its cell oblique."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(*[torch.arange(2 * repeats)] * 3)
    cell = 5.6 * repeats * (torch.eye(3) + 0.1 * torch.rand(3, 3, generator=generator)).double()
    positions = corners.double() / (2 * repeats) @ cell
    noise = 0.2 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    return positions + noise, cell, 1.0 - 2.0 * (corners.sum(1) % 2)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (True, False, False)])
@pytest.mark.parametrize("screening_length", [None, 3.0])
def test_the_mesh_gives_what_the_direct_sum_gives(pbc: tuple[bool, ...], screening_length: float | None, batch) -> None:
    positions, cell, charges = ionic_crystal(repeats=2)
    generator = torch.Generator().manual_seed(1)
    dipoles = 0.2 * torch.randn(len(positions), 3, generator=generator, dtype=torch.float64)
    results = []
    for mesh_above in (0, 1000):
        interaction = Interaction(InteractionConfig(mesh_above=mesh_above, screening_length=screening_length))
        graph = batch([(positions, cell, pbc)])
        sources = Sources(charges.double().requires_grad_(), dipoles.clone().requires_grad_())
        leaves = [graph.positions.requires_grad_(), graph.cell.requires_grad_(), sources.charges, sources.dipoles]
        energies, potential = interaction.energy(sources, graph), interaction.potential(sources, graph)
        by_cell = 0 * graph.cell.sum()
        first = torch.autograd.grad(energies.sum() + by_cell, leaves, create_graph=True)
        probe = sum((value.flatten() * torch.linspace(-1, 1, value.numel())).sum() for value in first)
        second = torch.autograd.grad(probe + by_cell, leaves)
        results.append([energies, potential.values, potential.field, *first, *second])
    assert len(results[0]) == 11
    for mesh, direct in zip(*results, strict=True):
        assert (mesh - direct).norm() <= 3e-7 * direct.norm()
    assert abs(results[0][0] - results[1][0]) < 1e-7


@pytest.mark.parametrize(("mesh_above", "repeats"), [(1000, 1), (0, 2)])
def test_energies_are_smooth_while_the_cell_is_scaled(mesh_above: int, repeats: int, batch) -> None:
    """By ±10 %, in 200 steps: a step of the energy would show up ten times as large in the sixth differences."""
    positions, cell, charges = ionic_crystal(repeats=repeats)
    interaction = Interaction(InteractionConfig(mesh_above=mesh_above))
    scales = torch.linspace(0.9, 1.1, 201, dtype=torch.float64).tolist()
    graph = batch([(scale * positions, scale * cell, [True] * 3) for scale in scales])
    energies = interaction.energy(Sources(charges.double().repeat(len(scales))), graph)
    steps = torch.diff(energies, n=6).abs().max()
    assert steps < 1e-7
    assert energies.max() - energies.min() > 1


def test_another_program_finds_the_same_potentials(batch) -> None:
    torchpme = pytest.importorskip("torchpme")
    positions, cell, charges = ionic_crystal(repeats=2)
    # Its part in reciprocal space is that of Gaussians, of width √2 σ in its convention; no pairs, no other part.
    potential = torchpme.CoulombPotential(smearing=math.sqrt(2))
    calculator = torchpme.EwaldCalculator(potential, lr_wavelength=1.0).double()
    expected = calculator(
        charges.double()[:, None], cell, positions, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0).double()
    )[:, 0]
    graph = batch([(positions, cell, [True] * 3)])
    unit = Interaction(InteractionConfig(mesh_above=0))
    found = unit.potential(Sources(charges.double()), graph).values / COULOMB_CONSTANT
    torch.testing.assert_close(found / 2, expected, rtol=1e-6, atol=1e-6)
