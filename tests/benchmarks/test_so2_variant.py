"""The neighbour sum in frames of edges keeps the contracts of the one that it replaces."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file

from foundation import testing
from foundation.backbones import EquivariantConfig, equivariant
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.coupling import Kind, coupling_block, coupling_paths
from foundation.nn.linear import calibrated
from foundation.nn.spherical import SphericalHarmonics

CUTOFF = 4.0
HEADS = ("energy", "dipole", "polarizability", "handedness", "optical_rotation")
SHAPES: dict[str, dict[str, int]] = {
    "default": {},
    "few harmonics on edges": {"edge_degree": 2, "product_degree": 2},
    "groups of channels": {"radial_groups": 2},
    "sums up to the features' degree": {"product_degree": 2},
}


def graph_of(atoms: Atoms) -> AtomGraph:
    graph = build_graph(
        positions=atoms.positions, atomic_numbers=atoms.numbers, total_charge=0.0, spin_multiplicity=1, pbc=atoms.pbc
    )
    return with_neighbors(graph, CUTOFF)


def along_the_axes() -> Atoms:
    """Edges exactly along ±x, ±y and ±z, and across them; no symmetry that would hide a mistake."""
    arms = np.concatenate([np.eye(3), -np.eye(3)]) * np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])[:, None]
    return Atoms("CHHHFFO", np.concatenate([np.zeros((1, 3)), arms]))


def shaken(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=1)
    return atoms


STRUCTURES = {"along the axes": graph_of(along_the_axes()), "molecule": graph_of(shaken(molecule("CH3CH2OH")))}


@pytest.fixture
def so2(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The variant, in place of the backbone's own sum, in float64."""
    monkeypatch.syspath_prepend(str(repository))
    module = importlib.import_module("benchmarks.backbones.variants.so2")
    monkeypatch.setattr(equivariant, "NeighborSum", module.FrameNeighborSum)
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(torch.float32)


def build_model(so2: ModuleType, **shape: int) -> FoundationModel:
    torch.manual_seed(0)
    size = {"cutoff": CUTOFF, "channels": 8, "pseudo_channels": 4, "radial_width": 16}
    config = ModelConfig(
        backbone=EquivariantConfig(**{**size, **shape}),
        heads={name: default_head(name) for name in HEADS},
        elements=(1, 6, 8, 9),
        levels=("first",),
        electrostatics=None,
    )
    model = FoundationModel(config)
    sums = [part for part in model.modules() if isinstance(part, so2.FrameNeighborSum)]
    assert len(sums) == 3, "both towers of two layers but the first pseudo tower"
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in model.scaling.named_buffers():
        if name.startswith("references"):
            buffer.copy_(torch.linspace(-1.0, 1.0, buffer.numel()).view_as(buffer))
    with torch.no_grad(), calibrated(model.backbone):
        model.backbone(collate([STRUCTURES["molecule"]]))
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_predictions_turn_with_the_structure_and_forces_are_gradients(so2: ModuleType, shape: dict[str, int]) -> None:
    model = build_model(so2, **shape)
    for graph in STRUCTURES.values():
        testing.check_orthogonal(model, graph, reflect=False)
        testing.check_orthogonal(model, graph, reflect=True)
        testing.check_forces(model, graph)
    testing.check_batching(model, list(STRUCTURES.values()))  # one is padded to the width of the other
    testing.check_cutoff_smoothness(model, numbers=(6, 8))
    handedness = testing.predict(model, STRUCTURES["molecule"], ["handedness"])["handedness"]
    assert handedness.abs() > 1e-4, "the pseudo tower is dead"


def test_frames_put_edges_on_the_axis_and_turn_harmonics(so2: ModuleType) -> None:
    degree, eye = 4, torch.eye(3)
    edges = torch.cat([eye, -eye, torch.nn.functional.normalize(torch.randn(20, 3), dim=1)])
    others = torch.nn.functional.normalize(torch.randn(26, 3), dim=1)
    rotations, frames = so2.rotations_to_axis(edges), so2.EdgeFrames(degree)(edges)
    torch.testing.assert_close(torch.einsum("eij,ej->ei", rotations, edges), eye[[1]].expand(26, -1))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(26))
    harmonics = SphericalHarmonics(degree)
    rows = [order * order + order + m for order, m in so2.frame_order(degree)]
    expected = harmonics(torch.einsum("eij,ej->ei", rotations, others))[:, rows]
    torch.testing.assert_close(torch.einsum("eij,ej->ei", frames, harmonics(others)), expected)


@pytest.mark.parametrize("out", range(3))
@pytest.mark.parametrize("kind", ["even", "odd"])
def test_only_couplings_that_keep_parity_are_one_matrix_for_both_signs_of_m(kind: Kind, out: int) -> None:
    for left, right in coupling_paths(range(5), range(3), out, kind):
        along_axis = coupling_block(left, right, out)[:, left]  # with Y_left of an edge on the axis: m = 0 only
        common = min(right, out)
        block = along_axis[out - common : out + common + 1, right - common : right + common + 1]
        assert block.norm() > 0.1
        torch.testing.assert_close(block.norm(), along_axis.norm())
        wanted = block.diagonal() if kind == "even" else block.flip(1).diagonal()
        torch.testing.assert_close(wanted.norm(), block.norm())
        torch.testing.assert_close(wanted, wanted.flip(0) * (1 if kind == "even" else -1))


def test_frames_have_second_derivatives_at_the_poles_and_between_the_charts(so2: ModuleType) -> None:
    frames = so2.EdgeFrames(2)
    edges = torch.cat([torch.eye(3), -torch.eye(3)])[[1, 4]] * 1.3
    across = torch.tensor([[0.9, 1e-4, 0.4], [0.9, -1e-4, 0.4]])
    vectors = torch.cat([edges, across]).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: frames(torch.nn.functional.normalize(v, dim=1)), vectors)


def test_a_training_step_moves_every_parameter_of_the_sums_by_a_finite_gradient(so2: ModuleType) -> None:
    model = build_model(so2, edge_degree=2, product_degree=2).train()
    batch = collate(list(STRUCTURES.values()))
    predicted = model(batch, properties=("energy", "forces"), create_graph=True)
    (predicted["energy"].square().mean() + (predicted["forces"] - 1.0).square().mean()).backward()
    gradients = {name: one.grad for name, one in model.backbone.named_parameters() if one.grad is not None}
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    sums = {name for name, _ in model.backbone.named_parameters() if "_sum." in name}
    # The energy is a natural scalar: the last pseudo tower does not reach it.
    assert all(bool(gradients[name].any()) for name in sums if "natural_sum" in name)
    assert not so2._FRAMES, "frames outlive their geometry"


RECIPE = """
extends: [base, backbones/xs]
model:
  backbone:
    cutoff: 4.0
    channels: 4
    pseudo_channels: 2
    radial_groups: 2
    radial_width: 8
    edge_degree: 2
    product_degree: 2
data:
  mine:
    source: {source}
    format: extxyz
    level_of_theory: EMT
    charge: 0
    spin: 1
    properties: {{energy: {{key: energy, unit: eV}}, forces: {{key: forces, unit: eV/Å}}}}
    split: {{train: 4, val: 1, test: 1, seed: 0}}
tasks:
  energy: {{property: energy, data: [mine], weight: 1}}
  forces: {{property: forces, data: [mine], weight: 10}}
batch: {{max_structures: 2}}
trainer: {{max_epochs: 1, enable_progress_bar: false}}
report: false
"""


def test_the_command_line_trains_the_variant(so2: ModuleType, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    frames = []
    for seed in range(6):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(tmp_path / "my.xyz", frames, format="extxyz")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(source=tmp_path / "my.xyz"), encoding="utf-8")
    out = tmp_path / "run"
    assert so2.main(["train", str(tmp_path / "mine.yaml"), "--out", str(out)]) == 0
    weights = load_file(out / "model" / "model.safetensors")
    mixers = [weight for name, weight in weights.items() if "natural_sum.mixers" in name]
    assert len(mixers) == 1 + 3, "|m| = 0 in the first layer, 0 to 2 in the second"
    assert all(bool(weight.isfinite().all()) for weight in mixers)
