"""Every contract over every charge model and energy term, in molecules, ions, crystals, slabs, wires and mixtures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from foundation import testing
from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel, ModelConfig

CUTOFF = 4.0
MODELS: dict[str, dict[str, object]] = {
    "redistributed": {"charges": {"quadrupole": True}},
    "redistributed, charges only, repulsion": {
        "charges": {"atomic_dipoles": False},
        "electrostatics": {"permittivity": 1.8},
        "repulsion": {"kind": "zbl"},
    },
    "redistributed, screened": {"charges": {}, "electrostatics": {"screening_length": 2.0}},
    "equilibrated": {"charges": {"model": {"kind": "qeq"}, "polarizability": True, "quadrupole": True}},
    "equilibrated, charges only": {
        "charges": {"model": {"kind": "qeq"}, "atomic_dipoles": False, "polarizability": True},
    },
    "equilibrated, screened": {
        "charges": {"model": {"kind": "qeq"}, "polarizability": True},
        "electrostatics": {"screening_length": 2.0, "smearing": 0.8, "permittivity": 2.0},
    },
    "redistributed, feeding back": {"charges": {}, "electrostatics": {"feedback": {"rounds": 2}}},
    "equilibrated, feeding back": {
        "charges": {"model": {"kind": "qeq"}, "polarizability": True},
        "electrostatics": {"feedback": {"rounds": 1}},
    },
}


def graph_of(
    atoms: Atoms,
    *,
    charge: float = 0.0,
    spin: int = 1,
    seed: int = 0,
    scale: float = 0.08,
    field: tuple[float, ...] | None = None,
) -> AtomGraph:
    positions = atoms.positions + np.random.default_rng(seed).normal(scale=scale, size=atoms.positions.shape)
    graph = build_graph(
        positions=positions,
        atomic_numbers=atoms.numbers,
        total_charge=charge,
        spin_multiplicity=spin,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
        external_field=field,
    )
    return with_neighbors(graph, CUTOFF)


def oblique() -> Atoms:
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.set_cell(crystal.cell.array + np.array([[0, 0.4, 0.1], [0.3, 0, 0], [0, 0.3, 0.2]]), scale_atoms=True)
    return crystal


def chain() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell([[4.0, 0.5, 0.3], [0, 0, 0], [0, 0, 0]])
    atoms.pbc = [True, False, False]
    return atoms


MOLECULES = {
    "molecule": graph_of(molecule("CH3OH")),
    "ion": graph_of(molecule("H2CO"), charge=-1.0, spin=2, seed=1),
    "molecule in a field": graph_of(molecule("H2O"), seed=4, field=(0.05, -0.1, 0.2)),
}
STRUCTURES = {
    **MOLECULES,
    "crystal": graph_of(oblique(), seed=2),
    "charged crystal": graph_of(oblique(), charge=1.0, spin=2, seed=2),
    "slab in a field": graph_of(fcc111("Cu", (1, 1, 3), vacuum=6.0), seed=3, field=(0.0, 0.0, 0.1)),
    "wire": graph_of(chain(), seed=5),
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(name: str) -> FoundationModel:
    """A model with weights drawn at random where they start at zero."""
    chosen = MODELS[name]
    config = {
        "backbone": {
            "kind": "equivariant",
            "cutoff": CUTOFF,
            "channels": 8,
            "pseudo_channels": 4,
            "num_layers": 1,
            "edge_degree": 2,
            "product_degree": 2,
            "radial_width": 8,
        },
        "heads": {"energy": {"kind": "energy"}, "charges": {"kind": "charges", **chosen["charges"]}},  # type: ignore[dict-item]
        "elements": [1, 6, 8, 11, 17, 29],
        "levels": ["only"],
        "electrostatics": {"kind": "coulomb", **chosen.get("electrostatics", {})},  # type: ignore[dict-item]
        "repulsion": chosen.get("repulsion"),
    }
    torch.manual_seed(0)
    model = FoundationModel(validate(ModelConfig, config, where=name))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    model.scaling.reference_energies.zero_()
    return model.eval()


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name)
def model(request: pytest.FixtureRequest) -> FoundationModel:
    torch.set_default_dtype(torch.float64)
    return build(request.param)


@pytest.fixture(params=STRUCTURES, ids=lambda name: name)
def graph(request: pytest.FixtureRequest) -> AtomGraph:
    return STRUCTURES[request.param]


def test_predictions_turn_with_the_structure(model: FoundationModel, graph: AtomGraph) -> None:
    for reflect in (False, True):
        testing.check_orthogonal(model, graph, reflect=reflect)


def test_only_relative_positions_matter(model: FoundationModel, graph: AtomGraph) -> None:
    testing.check_translation(model, graph)
    testing.check_lattice_shift(model, graph)
    testing.check_permutation(model, graph)


def test_forces_and_stress_are_derivatives_of_the_energy(model: FoundationModel, graph: AtomGraph) -> None:
    testing.check_forces(model, graph)
    if bool(graph.pbc.all()):
        testing.check_stress(model, graph)


def test_born_charges_add_up_and_are_derivatives_of_the_dipole(model: FoundationModel, graph: AtomGraph) -> None:
    testing.check_born_charges(model, graph)


def test_molecules_crystals_and_slabs_mix_in_a_batch(model: FoundationModel) -> None:
    everything = list(STRUCTURES.values())
    testing.check_charge_conservation(model, everything)
    testing.check_batching(model, everything)
    testing.check_batching(model, [STRUCTURES["crystal"], STRUCTURES["charged crystal"]])


@pytest.mark.parametrize("name", MOLECULES)
def test_the_dipole_is_the_slope_of_the_energy_in_a_field(model: FoundationModel, name: str) -> None:
    testing.check_field_response(model, MOLECULES[name])


def test_the_slope_of_forces_in_a_field_across_a_slab_is_the_born_charges(model: FoundationModel) -> None:
    testing.check_field_across(model, STRUCTURES["slab in a field"])


@pytest.mark.parametrize("name", ["crystal", "slab in a field", "wire"])
def test_supercells_of_neutral_singlets_have_as_many_times_the_energy(model: FoundationModel, name: str) -> None:
    testing.check_supercell(model, STRUCTURES[name])


@pytest.mark.parametrize("name", ["redistributed", "equilibrated"])
@pytest.mark.parametrize("properties", [("energy", "forces", "dipole"), ("born_charges",)])
def test_gradients_of_weights_match_differences(name: str, properties: tuple[str, ...]) -> None:
    """Through forces, whose own gradient needs second derivatives of charges, and through Born charges."""
    model = build(name)
    batch = collate([STRUCTURES["ion"], STRUCTURES["crystal"], STRUCTURES["molecule in a field"]])

    def loss(*, create_graph: bool) -> torch.Tensor:
        found = model(batch, properties=properties, create_graph=create_graph)
        return sum((values.nan_to_num() ** 2).sum() for values in found.values())  # type: ignore[return-value]

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(create_graph=True), parameters, allow_unused=True)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    def at(amount: float) -> torch.Tensor:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=amount)
            value = loss(create_graph=False).detach()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=amount)
        return value

    step = 1e-5
    expected = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    testing.assert_close(torch.as_tensor(slope), expected, "gradient of weights", tolerance=1e-6)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (True, False, False)])
def test_a_molecule_in_a_wide_cell_has_the_born_charges_of_a_free_one(
    model: FoundationModel, pbc: tuple[bool, ...]
) -> None:
    """In a box of 32 Å to 1e-3; what is left is the interaction with images, which falls as the volume grows.

    Features that answer to the field feel images more; theirs falls as it should: 3.4-fold from 24 to 36 Å.
    """
    free = graph_of(molecule("H2O"), seed=4)
    expected = testing.predict(model, free, ["born_charges"])["born_charges"]

    def miss(size: float) -> float:
        cell = size / 32 * np.array([[32.0, 0, 0], [6.0, 32.0, 0], [0, 4.0, 32.0]])
        positions = free.positions.numpy() + np.array([15.0, 14.0, 13.0])
        atoms = Atoms(free.atomic_numbers.numpy(), positions, cell=cell, pbc=pbc)
        atoms.wrap()
        found = testing.predict(model, graph_of(atoms, scale=0.0), ["born_charges"])["born_charges"]
        return float((found - expected).abs().max())

    assert miss(36.0) < miss(24.0) / 2.5 if len(model.feedback) else miss(32.0) < 1e-3


def test_supercells_have_the_same_born_charges() -> None:
    """Once half of the cell is longer than charges respond to."""
    model = build("redistributed")
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.2, seed=1)
    small, large = (testing.predict(model, graph_of(crystal * (n, n, n), scale=0.0), ["born_charges"]) for n in (3, 4))
    assert (small["born_charges"][:8] - large["born_charges"][:8]).abs().max() < 1e-5
    assert large["born_charges"].std(0).min() > 1e-5
