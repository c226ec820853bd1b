"""Charge models against the conditions that define them; their contracts are in tests/contracts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import Interaction, InteractionConfig, Sources
from foundation.electrostatics.charges import ChargeModel, EquilibrationConfig, RedistributedConfig, build_charge_model
from foundation.electrostatics.charges.electronegativity import pauling_electronegativities
from foundation.electrostatics.charges.equilibration import Equilibration
from foundation.electrostatics.charges.moments import Moments, field_energy
from foundation.electrostatics.charges.redistributed import Redistributed
from foundation.errors import InputError
from foundation.nn.features import FeatureLayout, Features

LAYOUT = FeatureLayout(degree=1, natural_channels=4, pseudo_channels=0)
INTERACTION = Interaction(InteractionConfig(smearing=0.9))
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def graph_of(atoms: Atoms, *, charge: float, field: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> AtomGraph:
    graph = build_graph(
        positions=atoms.positions + RANDOM.normal(scale=0.1, size=atoms.positions.shape),
        atomic_numbers=atoms.numbers,
        total_charge=charge,
        spin_multiplicity=1,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
        external_field=field,
    )
    return with_neighbors(graph, 3.0)


def mixed_batch() -> AtomGraph:
    slab = molecule("H2O")
    slab.set_cell([5.0, 6.0, 0.0])
    slab.pbc = [True, True, False]
    return collate(
        [
            graph_of(molecule("CH3OH"), charge=1.0, field=(0.1, 0.2, -0.1)),
            graph_of(bulk("NaCl", "rocksalt", a=5.6, cubic=True), charge=-1.0),
            graph_of(slab, charge=0.0, field=(0.0, 0.0, 0.3)),
            graph_of(Atoms("H"), charge=0.0),
        ]
    )


def features_of(graph: AtomGraph) -> Features:
    num_atoms = graph.positions.shape[0]
    natural = torch.randn(num_atoms, 4, 4, generator=torch.Generator().manual_seed(1))
    return Features(natural, torch.zeros(num_atoms, 4, 0), LAYOUT)


def built(config: RedistributedConfig | EquilibrationConfig, *, atomic_dipoles: bool = True) -> ChargeModel:
    torch.manual_seed(0)
    model = build_charge_model(config, LAYOUT, hidden=8, atomic_dipoles=atomic_dipoles, interaction=INTERACTION)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("atomic_dipoles", [True, False])
def test_equilibrated_charges_are_the_minimum_of_their_energy(atomic_dipoles: bool) -> None:
    """The energy written down anew, over the interaction of pairs and waves in place of the matrix of the solve."""
    model = built(EquilibrationConfig(), atomic_dipoles=atomic_dipoles)
    assert isinstance(model, Equilibration)
    graph = mixed_batch()
    features = features_of(graph)
    found = model(features, graph)
    raw = model.readout(features.scalars)
    electronegativity = raw[:, 0] + model.begin[graph.atomic_numbers]
    hardness = model.own_hardness + 0.1 + torch.nn.functional.softplus(raw[:, 1] + 4.0)

    def energy(charges: torch.Tensor, dipoles: torch.Tensor | None) -> torch.Tensor:
        sources = Sources(charges, dipoles)
        atomic = electronegativity * charges + 0.5 * hardness * charges**2
        if dipoles is not None:
            assert model.moment is not None
            stiffness = model.own_stiffness + 0.1 + torch.nn.functional.softplus(raw[:, 2] + 8.0)
            atomic = atomic + (model.moment(features) * dipoles).sum(1) + 0.5 * stiffness * dipoles.square().sum(1)
        total = torch.zeros(graph.num_graphs).index_add(0, graph.graph_index, atomic)
        return total + INTERACTION.energy(sources, graph) + field_energy(sources, graph)

    charges = found.sources.charges.detach().requires_grad_(True)
    dipoles = None if found.sources.dipoles is None else found.sources.dipoles.detach().requires_grad_(True)
    expected = energy(charges, dipoles)
    assert found.energy is not None
    torch.testing.assert_close(found.energy, expected, rtol=1e-10, atol=1e-10)
    slopes = torch.autograd.grad(expected.sum(), [charges, *([] if dipoles is None else [dipoles])])
    for index in range(graph.num_graphs):
        chemical_potential = slopes[0][graph.graph_index == index]
        assert chemical_potential.max() - chemical_potential.min() < 1e-9, "electrons would still move"
    if dipoles is not None:
        assert slopes[1].abs().max() < 1e-9
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        shift = torch.randn(len(charges), generator=generator)
        means = torch.zeros(graph.num_graphs).index_add(0, graph.graph_index, shift) / graph.num_atoms_per_graph
        shift = shift - means[graph.graph_index]
        turned = None if dipoles is None else dipoles + torch.randn(dipoles.shape, generator=generator)
        higher = energy(charges + shift, turned) - expected
        assert (higher[: 3 if dipoles is None else 4] > 1e-3).all(), "one minimum"


def test_missing_charge_is_what_softness_shares_out() -> None:
    graph = mixed_batch()
    model = built(RedistributedConfig())
    assert isinstance(model, Redistributed)
    found = model(features_of(graph), graph)
    own = model.charge(features_of(graph).scalars, None)[:, 0]
    sums = torch.zeros(graph.num_graphs).index_add(0, graph.graph_index, own)
    assert found.missing is not None
    torch.testing.assert_close(found.missing, graph.total_charge - sums)
    assert found.missing.abs().min() > 1e-3
    shared = torch.zeros(graph.num_graphs).index_add(0, graph.graph_index, found.sources.charges - own)
    torch.testing.assert_close(shared, found.missing)
    assert built(EquilibrationConfig())(features_of(graph), graph).missing is None, "nothing is shared out"


def test_an_atom_alone_keeps_its_charge() -> None:
    """Of a single free atom nothing can flow: q = Q, exactly."""
    for config in (RedistributedConfig(), EquilibrationConfig()):
        graph = collate([graph_of(Atoms("Na"), charge=1.0)])
        charges = built(config)(features_of(graph), graph).sources.charges
        assert charges.tolist() == pytest.approx([1.0], abs=1e-14)


def test_untrained_equilibration_gives_electrons_to_the_electronegative() -> None:
    model = build_charge_model(EquilibrationConfig(), LAYOUT, hidden=8, atomic_dipoles=True, interaction=INTERACTION)
    graph = collate([graph_of(molecule("H2O"), charge=0.0)])
    oxygen, first, second = model(features_of(graph), graph).sources.charges.tolist()
    assert -1.0 < oxygen < -0.1 < 0.05 < min(first, second)


def test_latent_charges_do_not_start_from_zero() -> None:
    """Where all charges vanish, so does the slope of any energy that is quadratic in them."""
    graph = collate([graph_of(molecule("H2O"), charge=0.0)])
    found = {
        start: build_charge_model(
            RedistributedConfig(start=start), LAYOUT, hidden=8, atomic_dipoles=True, interaction=INTERACTION
        )(features_of(graph), graph).sources.charges
        for start in ("zero", "electronegativity")
    }
    assert found["zero"].abs().max() == 0
    assert found["electronegativity"].tolist() == pytest.approx([-0.248, 0.124, 0.124])


def test_structures_beyond_the_dense_solve_are_refused() -> None:
    model = built(EquilibrationConfig(max_atoms=5))
    graph = mixed_batch()
    with pytest.raises(InputError, match=r"has 8 atoms; .* limited to 5 \(max_atoms\); allowed: .*'redistributed'"):
        model(features_of(graph), graph)


def test_equilibration_wants_an_interaction() -> None:
    with pytest.raises(InputError, match=r"model has no electrostatics; allowed: model\.electrostatics"):
        build_charge_model(EquilibrationConfig(), LAYOUT, hidden=8, atomic_dipoles=True, interaction=None)


def test_moments_of_two_charges() -> None:
    """Of ±1 e at ±1 Å on z, and of an atomic dipole beside the centre of mass."""
    graph = collate([graph_of(Atoms("H2"), charge=0.0)])
    graph.positions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    charges = torch.tensor([1.0, -1.0])
    assert Moments().dipole(Sources(charges), graph).tolist() == [[0.0, 0.0, 2.0]]
    assert Moments().quadrupole(Sources(charges.abs()), graph)[0].tolist() == np.diag([0.0, 0.0, 2.0]).tolist()
    dipoles = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert Moments().quadrupole(Sources(0 * charges, dipoles), graph)[0].tolist() == expected


def test_electronegativities_stand_at_their_elements() -> None:
    table = pauling_electronegativities(119)
    known = {1: 2.20, 9: 3.98, 11: 0.93, 17: 3.16, 29: 1.90, 47: 1.93, 55: 0.79, 71: 1.27, 79: 2.54, 92: 1.38, 94: 1.28}
    assert {number: round(float(table[number]), 2) for number in known} == known
