"""On a CUDA device every model says what it says on a CPU, compiled too, and its weights get the same gradients."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from foundation.calculators.ase import FoundationCalculator
from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig

pytestmark = pytest.mark.gpu

CUTOFF = 4.0
EQUIVARIANT = {"kind": "equivariant", "cutoff": CUTOFF, "channels": 8, "pseudo_channels": 4}
LONG_RANGE = {"kind": "coulomb"}
MODELS: dict[str, dict[str, object]] = {
    "equivariant": {"backbone": EQUIVARIANT, "heads": {"charges": {"kind": "charges"}}},
    "visnet": {"backbone": {"kind": "visnet", "cutoff": CUTOFF, "channels": 16, "num_heads": 4, "num_layers": 2}},
    "long range": {
        "backbone": EQUIVARIANT,
        "heads": {"charges": {"kind": "charges", "quadrupole": True}},
        "electrostatics": LONG_RANGE,
        "repulsion": {"kind": "zbl"},
    },
    "equilibrated, feeding back": {
        "backbone": EQUIVARIANT,
        "heads": {"charges": {"kind": "charges", "model": {"kind": "qeq"}, "polarizability": True}},
        "electrostatics": {**LONG_RANGE, "feedback": {"rounds": 1}},
    },
}


def build(name: str) -> FoundationModel:
    """A model in double precision, random where it starts at zero."""
    chosen = MODELS[name]
    heads = {"energy": {"kind": "energy"}, **chosen.get("heads", {})}  # type: ignore[dict-item]
    if EQUIVARIANT is chosen["backbone"]:
        heads["handedness"] = {"kind": "pseudoscalar", "property_name": "handedness"}
    config = {**chosen, "heads": heads, "elements": [1, 6, 8, 11, 17], "levels": ["only"]}
    torch.manual_seed(0)
    model = FoundationModel(validate(ModelConfig, config, where=name)).double()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    model.scaling.reference_energies.zero_()
    return model.eval()


def graph_of(atoms: Atoms, *, charge: float = 0.0, spin: int = 1, seed: int = 0) -> AtomGraph:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, 0.08, atoms.positions.shape)
    graph = build_graph(
        positions=atoms.positions,
        atomic_numbers=atoms.numbers,
        total_charge=charge,
        spin_multiplicity=spin,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
    )
    return with_neighbors(graph, CUTOFF)


def structures() -> AtomGraph:
    """A molecule, an ion and a crystal smaller than the cutoff."""
    return collate(
        [
            graph_of(molecule("CH3OH")),
            graph_of(molecule("H2CO"), charge=-1.0, spin=2, seed=1),
            graph_of(bulk("NaCl", "rocksalt", a=5.6), seed=2),
        ]
    )


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest value; undefined entries have to be the same."""
    found, expected = found.detach().cpu(), expected.detach()
    assert torch.equal(found.isnan(), expected.isnan())
    return float((found - expected).nan_to_num().abs().max() / expected.nan_to_num().abs().max().clamp(min=1e-6))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_of_weights_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    here = build(name)
    there = copy.deepcopy(here).to(device)
    asked = ["energy", "forces", "stress", *(here.properties & {"dipole", "partial_charges", "handedness"})]
    losses, outputs = [], []
    for model, graph in ((here, structures()), (there, structures().to(str(device)))):
        found = model(graph, properties=asked, create_graph=True)
        losses.append(torch.stack([value.nan_to_num().square().sum() for value in found.values()]).sum())
        outputs.append(found)
    for prop, expected in outputs[0].items():
        assert worst(outputs[1][prop], expected) < 1e-10, prop
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        for loss, model in zip(losses, (here, there), strict=True)
    ]
    size = max(float(one.abs().max()) for one in gradients[0])
    for ours, expected in zip(gradients[1], gradients[0], strict=True):
        assert float((ours.cpu() - expected).abs().max()) < 1e-9 * size


def test_ase_gets_the_same_forces(device: torch.device) -> None:
    forces = []
    for where in ("cpu", str(device)):
        atoms = molecule("CH3OH")
        atoms.calc = FoundationCalculator(build("long range"), charge=0, spin=1, dtype="float64", device=where)
        forces.append(atoms.get_forces())
    np.testing.assert_allclose(forces[1], forces[0], rtol=0, atol=1e-10 * np.abs(forces[0]).max())


def test_an_element_without_weights_is_an_error_and_not_the_end_of_the_device(device: torch.device) -> None:
    atoms = molecule("CH3SH")
    atoms.calc = FoundationCalculator(build("equivariant"), charge=0, spin=1, device=str(device))
    with pytest.raises(InputError, match="S"):
        atoms.get_potential_energy()
    assert float(torch.ones(3, device=device).sum()) == 3.0


def test_compiled_steps_are_the_eager_ones() -> None:
    program = Path(__file__).parents[1] / "compiled_model.py"
    done = subprocess.run([sys.executable, program, "cuda"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert int(lines.pop("compiled")) <= 3
    assert int(lines.pop("levels compiled")) == 1
    assert int(lines.pop("calculator compiled")) == 1
    assert float(lines["calculator forces"]) < 1e-9
    for name in ("outputs 0", "outputs 5", "outputs XS"):
        assert float(lines[name]) < 1e-4
    for name, error in lines.items():
        assert float(error) < 1e-3, name
