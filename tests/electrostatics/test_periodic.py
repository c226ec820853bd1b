"""Crystals, slabs and wires against tabulated constants, explicit sums of images, limits and symmetries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from foundation.electrostatics import Interaction, InteractionConfig, Sources
from foundation.electrostatics.radial import PairLaw, radial_functions
from foundation.units import COULOMB_CONSTANT

FACE_CENTRED = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
CUBIC = torch.eye(3, dtype=torch.float64)
MADELUNG = [
    pytest.param(FACE_CENTRED, [0.0, 0.5], [1, -1], 0.5, 1.7475645946, id="NaCl"),
    pytest.param(CUBIC, [0.0, 0.5], [1, -1], math.sqrt(3) / 2, 1.7626747731, id="CsCl"),
    pytest.param(FACE_CENTRED, [0.0, 0.25], [1, -1], math.sqrt(3) / 4, 1.6380550533, id="ZnS"),
    pytest.param(FACE_CENTRED, [0.0, 0.25, 0.75], [2, -1, -1], math.sqrt(3) / 4, 5.0387848739, id="CaF2"),
]
"""Cell, positions along the cube's diagonal and the distance of neighbours in units of the lattice constant; charges.
Source: Sakamoto, J. Chem. Phys. 28, 164 (1958)."""


@pytest.mark.parametrize(("cell", "diagonal", "charges", "neighbour", "constant"), MADELUNG)
@pytest.mark.parametrize("mesh_above", [0, 1000])
def test_madelung_constants(
    cell: Tensor, diagonal: list[float], charges: list[int], neighbour: float, constant: float, mesh_above: int, batch
) -> None:
    lattice_constant = 5.6
    positions = lattice_constant * torch.tensor(diagonal, dtype=torch.float64)[:, None].expand(-1, 3)
    graph = batch([(positions, lattice_constant * cell, [True] * 3)])
    sources = Sources(torch.tensor(charges, dtype=torch.float64))
    interaction = Interaction(InteractionConfig(smearing=0.05 * lattice_constant, mesh_above=mesh_above))
    energy = interaction.energy(sources, graph)[0]
    found = -energy * neighbour * lattice_constant / COULOMB_CONSTANT
    assert found.item() == pytest.approx(constant, rel=1e-7)


def translations(cell: Tensor, pbc: Sequence[bool], reach: int) -> Tensor:
    """By lattice vectors, up to `reach` of each that repeats."""
    ranges = [range(-reach, reach + 1) if repeats else range(1) for repeats in pbc]
    return torch.tensor(list(itertools.product(*ranges)), dtype=torch.float64) @ cell


PBC = [(True, True, True), (True, True, False), (False, True, True), (True, False, False), (False, False, True)]


def sum_of_images(positions: Tensor, sources: Sources, shifts: Tensor, law: PairLaw) -> Tensor:
    """Energy of one cell with itself and its images: pair by pair, eV."""
    vectors = positions[:, None, None] - positions[None, :, None] - shifts
    squared = vectors.square().sum(3)
    zeroth, first, second = radial_functions(squared, law, orders=3)
    along = torch.einsum("ijsa,ja->ijs", vectors, sources.dipoles)
    values = sources.charges[:, None] * zeroth + along * first
    field = (sources.charges[:, None] * first + along * second)[..., None] * vectors
    field = field - first[..., None] * sources.dipoles[:, None]
    energies = sources.charges[:, None, None] * values - torch.einsum("ijsa,ia->ijs", field, sources.dipoles)
    return COULOMB_CONSTANT / 2 * torch.where(squared > 0, energies, 0.0).sum()


@pytest.mark.parametrize("pbc", PBC)
def test_screened_lattices_are_sums_over_images(pbc: tuple[bool, ...], mixed, batch, random_sources) -> None:
    """Charged ones too: screening needs no background."""
    positions, cell, _ = mixed[0]
    graph = batch([(positions, cell, pbc)])
    sources = random_sources(graph)
    sources = Sources(sources.charges + 0.3, sources.dipoles)
    expected = sum_of_images(positions, sources, translations(cell, pbc, 7), PairLaw(0.8, 1.0))
    found = Interaction(InteractionConfig(screening_length=1.0, smearing=0.8)).energy(sources, graph)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_neutral_wire_is_a_sum_over_images(mixed, batch, random_sources) -> None:
    """Coulomb's sum over n images ends with an error of order 1/n²."""
    positions, cell, _ = mixed[0]
    pbc = (False, True, False)
    graph = batch([(positions, cell, pbc)])
    sources = random_sources(graph)
    expected = sum_of_images(positions, sources, translations(cell, pbc, 5000), PairLaw(1.0, 0.0))
    found = Interaction(InteractionConfig()).energy(sources, graph)[0]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("free_axis", [0, 1, 2])
def test_a_neutral_slab_is_a_crystal_with_empty_space_and_the_dipole_correction(
    free_axis: int, mixed, batch, random_sources
) -> None:
    """Yeh & Berkowitz, J. Chem. Phys. 111, 3155 (1999): 2π M_z² / V."""
    positions, cell, _ = mixed[0]
    others = [axis for axis in range(3) if axis != free_axis]
    normal = torch.linalg.cross(cell[others[0]], cell[others[1]])
    stretched = cell.clone()
    stretched[free_axis] = 90 * normal / normal.norm()
    pbc = [axis != free_axis for axis in range(3)]
    interaction = Interaction(InteractionConfig())
    slab, crystal = batch([(positions, cell, pbc)]), batch([(positions, stretched, [True] * 3)])
    sources = random_sources(slab)
    moment = ((sources.charges[:, None] * positions + sources.dipoles).sum(0) * normal / normal.norm()).sum()
    correction = COULOMB_CONSTANT * 2 * math.pi * moment**2 / torch.linalg.det(stretched).abs()
    expected = interaction.energy(sources, crystal)[0] + correction
    torch.testing.assert_close(interaction.energy(sources, slab)[0], expected, rtol=1e-9, atol=1e-9)


def test_a_charged_plane_and_a_charged_line_have_the_potentials_that_are_stated(batch) -> None:
    """−2π|z| and −2 ln(ρ/Å) times their charge densities."""
    interaction = Interaction(InteractionConfig(smearing=0.5))
    cell = torch.diag(torch.tensor([1.0, 1.2, 0.0], dtype=torch.float64))
    probe = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.4, 11.0]], dtype=torch.float64)
    graph = batch([(probe, cell, (True, True, False)), (probe, cell, (True, False, False))])
    potential = interaction.potential(Sources(torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)), graph)
    expected = [-2 * math.pi * 11 / 1.2, -2 * math.log(math.hypot(0.4, 11.0))]
    found = potential.values[[1, 3]] / COULOMB_CONSTANT
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_molecule_is_the_limit_of_a_large_cell(mixed, batch, random_sources) -> None:
    """Makov & Payne, Phys. Rev. B 51, 4014 (1995): −α Q²/2L, and 2π/3L³ (Q Σ q(r² + 3σ²) − M²) beyond it.

    The term of 3σ² is the second moment of the Gaussians; the origin is where it does not matter: Q Σ q r² − M² does
    not depend on it.
    """
    positions, _, _ = mixed[0]
    smearing, lengths = 1.0, torch.tensor([30.0, 60.0], dtype=torch.float64)
    interaction = Interaction(InteractionConfig(smearing=smearing))
    molecule = batch([(positions, None, [False] * 3)])
    crystals = batch([(positions, length * CUBIC, [True] * 3) for length in lengths])
    neutral = random_sources(molecule)
    for charge in (0.0, 2.0):
        charges, dipoles = neutral.charges + charge / len(positions), neutral.dipoles
        moment = (charges[:, None] * positions + dipoles).sum(0)
        second = (charges * (positions.square().sum(1) + 3 * smearing**2)).sum() + 2 * (dipoles * positions).sum()
        expected = -2.837297479 * charge**2 / (2 * lengths)
        expected = expected + 2 * math.pi / (3 * lengths**3) * (charge * second - moment.square().sum())
        energies = interaction.energy(Sources(charges.repeat(2), dipoles.repeat(2, 1)), crystals)
        found = (energies - interaction.energy(Sources(charges, dipoles), molecule)) / COULOMB_CONSTANT
        left = (found - expected).abs()
        # What follows falls with L⁻⁵.
        assert left[1] < 3e-6
        assert left[1] < left[0] / 25


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
@pytest.mark.parametrize("mesh_above", [0, 1000])
def test_what_leaves_a_structure_unchanged_leaves_its_energy_unchanged(
    pbc: tuple[bool, ...], mesh_above: int, mixed, batch, random_sources
) -> None:
    """Supercells, other cells of the same lattice, another order of atoms, translations; crystals charged too."""
    positions, cell, _ = mixed[0]
    interaction = Interaction(InteractionConfig(mesh_above=mesh_above))
    graph = batch([(positions, cell, pbc)])
    sources = random_sources(graph)
    charges, dipoles = sources.charges + (0.2 if all(pbc) else 0.0), sources.dipoles
    repeats = torch.tensor(pbc)
    reduction = torch.eye(3, dtype=torch.float64)
    reduction[0, 1], reduction[1, 2], reduction[2, 0] = 2.0, -1.0, 1.0
    reduction = torch.where(repeats[:, None] & repeats, reduction, torch.eye(3, dtype=torch.float64))
    counts = torch.where(repeats, torch.tensor([2, 3, 2]), 1)
    shifts = torch.cartesian_prod(*[torch.arange(int(count)) for count in counts]).double() @ cell
    lattice = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, 0.0], [-1.0, 1.0, 0.0]]).double().repeat(2, 1) * repeats
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    changed = [
        (positions[order], cell, pbc),
        (positions + lattice @ cell + torch.tensor([0.3, -7.0, 11.0], dtype=torch.float64), cell, pbc),
        (positions, reduction @ cell, pbc),
        ((positions + shifts[:, None]).reshape(-1, 3), counts[:, None] * cell, pbc),
    ]
    number = len(shifts)
    all_charges = torch.cat([charges[order], charges, charges, charges.repeat(number)])
    all_dipoles = torch.cat([dipoles[order], dipoles, dipoles, dipoles.repeat(number, 1)])
    found = interaction.energy(Sources(all_charges, all_dipoles), batch(changed))
    energy = interaction.energy(Sources(charges, dipoles), graph)[0]
    tolerance = 1e-9 if mesh_above else 1e-7
    expected = energy * torch.tensor([1.0, 1.0, 1.0, number], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=tolerance)
