"""Every contract over every backbone and head that exists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from e3nn import o3

from foundation import testing
from foundation.backbones import BackboneConfig, EquivariantConfig, VisnetConfig, build_backbone
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import ElectrostaticsConfig
from foundation.heads import default_head
from foundation.heads.tensor import TensorConfig
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.features import FeatureLayout
from foundation.nn.linear import calibrated
from foundation.properties import PROPERTIES, Property

BACKBONES: dict[str, BackboneConfig] = {
    "default": EquivariantConfig(cutoff=4.0, channels=8, pseudo_channels=4),
    "grouped radial": EquivariantConfig(cutoff=4.0, channels=8, pseudo_channels=4, radial_groups=2, product_degree=2),
    "correlation 2, edge degree 1": EquivariantConfig(
        cutoff=4.0, channels=8, pseudo_channels=4, correlation=2, edge_degree=2, product_degree=2
    ),
    "one layer, no charge": EquivariantConfig(
        cutoff=4.0, channels=8, pseudo_channels=4, num_layers=1, use_charge=False
    ),
    "radial network at every edge": EquivariantConfig(cutoff=4.0, channels=8, pseudo_channels=4, radial_spacing=None),
    "radial functions blind to elements": EquivariantConfig(
        cutoff=4.0, channels=8, pseudo_channels=4, radial_elements=False, product_degree=2
    ),
    "levels apart": EquivariantConfig(cutoff=4.0, channels=8, pseudo_channels=4, level_sharing=0.5),
    "visnet": VisnetConfig(cutoff=4.0, channels=16, num_heads=4, num_layers=2, num_basis=8),
    "visnet, vertex, vectors only, no charge": VisnetConfig(
        cutoff=4.0, channels=8, num_heads=2, num_layers=3, num_basis=8, degree=1, vertex=True, use_charge=False
    ),
}
HEADS = (
    "energy",
    "dipole",
    "polarizability",
    "quadrupole",
    "site_of_metabolism",
    "handedness",
    "optical_rotation",
    "gap",
    "position_noise",
    "masked_element",
)


def graph_of(atoms: Atoms, *, charge: float = 0.0, spin: int = 1, seed: int = 0, cutoff: float = 4.0) -> AtomGraph:
    positions = atoms.positions + np.random.default_rng(seed).normal(scale=0.08, size=atoms.positions.shape)
    graph = build_graph(
        positions=positions,
        atomic_numbers=atoms.numbers,
        total_charge=charge,
        spin_multiplicity=spin,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
    )
    return with_neighbors(graph, cutoff)


def triclinic() -> Atoms:
    crystal = bulk("Cu", "fcc", a=3.6) * (1, 1, 2)
    crystal.set_cell(crystal.cell.array + np.array([[0, 0.2, 0.1], [0.1, 0, 0], [0, 0.3, 0.2]]), scale_atoms=True)
    return crystal


ALANINE = molecule("CH3CH2OH")
STRUCTURES = {
    "molecule": graph_of(ALANINE),
    "ion": graph_of(molecule("CH3CONH2"), charge=-1.0, spin=2, seed=1),
    "triclinic crystal smaller than the cutoff": graph_of(triclinic(), seed=2),
    "slab": graph_of(fcc111("Cu", (1, 1, 3), vacuum=6.0), seed=3),
}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def carries(layout: FeatureLayout, prop: Property) -> bool:
    """Whether features hold every irrep of a property; a head of any other is refused."""
    return all(layout.channels(irrep.l, irrep.p) for _, irrep in o3.Irreps(prop.irreps))


def build_model(backbone: BackboneConfig, *, electrostatics: bool = False) -> FoundationModel:
    """A model of all heads whose zero-initialised readouts are randomised, calibrated on the structures."""
    torch.manual_seed(0)
    layout = build_backbone(backbone, elements=(1,), num_levels=1).layout
    heads = {name: default_head(name) for name in HEADS if carries(layout, PROPERTIES[name])}
    config = ModelConfig(
        backbone=backbone,
        heads=heads,
        elements=(1, 6, 7, 8, 29),
        levels=("first", "second"),
        electrostatics=ElectrostaticsConfig() if electrostatics else None,
    )
    model = FoundationModel(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in model.scaling.named_buffers():
        if name.startswith("references"):
            buffer.copy_(torch.linspace(-1.0, 1.0, buffer.numel()).view_as(buffer))
    with torch.no_grad(), calibrated(model.backbone):
        model.backbone(collate(list(STRUCTURES.values())))
    return model.eval()


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda name: name)
def model(request) -> FoundationModel:
    torch.set_default_dtype(torch.float64)
    return build_model(BACKBONES[request.param])


@pytest.fixture(params=STRUCTURES, ids=lambda name: name)
def graph(request) -> AtomGraph:
    return STRUCTURES[request.param]


@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_predictions_turn_with_the_structure(model, graph, reflect):
    testing.check_orthogonal(model, graph, reflect=reflect)


@pytest.mark.parametrize("backbone", [config for config in BACKBONES.values() if config.kind == "equivariant"])
def test_pseudoscalars_are_not_zero(backbone):
    model = build_model(backbone)
    handedness = testing.predict(model, STRUCTURES["molecule"], ["handedness"])["handedness"]
    assert handedness.abs() > 1e-4


def test_position_does_not_matter(model, graph):
    testing.check_translation(model, graph)


def test_order_of_atoms_does_not_matter(model, graph):
    testing.check_permutation(model, graph)


def test_lattice_vectors_do_not_matter(model, graph):
    testing.check_lattice_shift(model, graph)


def test_batching_does_not_matter(model):
    testing.check_batching(model, list(STRUCTURES.values()))


def test_separated_molecules_add_up(model):
    testing.check_extensivity(model, STRUCTURES["molecule"], graph_of(molecule("H2O"), seed=4))


def test_forces_are_the_negative_energy_gradient(model, graph):
    testing.check_forces(model, graph)


def test_stress_is_the_strain_derivative(model):
    testing.check_stress(model, STRUCTURES["triclinic crystal smaller than the cutoff"])


def test_charges_add_up_to_the_total_charge(model):
    testing.check_charge_conservation(model, list(STRUCTURES.values()))


def test_energy_is_smooth_at_the_cutoff(model):
    testing.check_cutoff_smoothness(model, numbers=(6, 8))


def test_dipole_of_an_ion_is_about_its_centre_of_mass():
    model = build_model(BACKBONES["default"])
    testing.check_translation(model, STRUCTURES["ion"])


@pytest.mark.parametrize("name", ["default", "visnet"])
def test_second_derivatives_match_finite_differences(name):
    """Force training differentiates forces by weights: compare with differences along random directions."""
    model = build_model(BACKBONES[name], electrostatics=True)
    batch = collate([STRUCTURES["molecule"], STRUCTURES["ion"]])

    def loss(create_graph: bool) -> torch.Tensor:
        return model(batch, properties=["forces"], create_graph=create_graph)["forces"].square().sum()

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(True), parameters, allow_unused=True)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    @torch.no_grad()
    def shift(amount: float) -> None:
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=amount)

    step, values = 1e-5, {}
    for multiple in (-2, -1, 1, 2):
        shift(multiple * step)
        values[multiple] = loss(False).detach()
        shift(-multiple * step)
    expected = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step)
    testing.assert_close(slope, expected, "parameter gradients", tolerance=1e-6)


def test_tensor_head_gives_a_dipole_in_a_periodic_cell():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BACKBONES["default"],
        heads={"dipole": TensorConfig(property_name="dipole")},
        elements=(29,),
        levels=("only",),
    )
    model = FoundationModel(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    graph = STRUCTURES["slab"]
    testing.check_orthogonal(model, graph, reflect=True)
    assert torch.isfinite(testing.predict(model, graph, ["dipole"])["dipole"]).all()
