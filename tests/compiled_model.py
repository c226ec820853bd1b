"""Run by tests as a program of its own, without checked shapes: compile small models for real and compare.

Takes the device, and prints one line a comparison: what was compared and the largest relative difference.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
import torch._dynamo
from ase import Atoms
from ase.build import bulk, molecule

from foundation import compilation
from foundation.calculators.ase import FoundationCalculator
from foundation.compilation import CompiledModel
from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig
from foundation.testing import random_rotation

CUTOFF = 3.5


SMALL = {
    "channels": 4,
    "pseudo_channels": 0,
    "num_layers": 1,
    "edge_degree": 1,
    "degree": 1,
    "product_degree": 1,
    "correlation": 1,
    "radial_width": 8,
    "radial_hidden": 1,
}
"""Compiles in seconds, and has messages and their couplings."""


def make_model(
    backbone: Mapping[str, float], *, levels: Sequence[str] = ("PBE",), long_range: Mapping[str, object] | None = None
) -> FoundationModel:
    """A model with random weights; with charges if these are to interact."""
    charges = {} if long_range is None else {"charges": {"kind": "charges", "hidden": 4}}
    config = {
        "backbone": {"kind": "equivariant", "cutoff": CUTOFF, **backbone},
        "heads": {"energy": {"kind": "energy", "hidden": 4}, **charges},
        "elements": [1, 6, 8, 14],
        "levels": list(levels),
        "electrostatics": long_range,
    }
    torch.manual_seed(0)
    model = FoundationModel(validate(ModelConfig, config, where="test"))
    model.scaling.reference_energies.zero_()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


def batch(*structures: Atoms, level: int = 0) -> AtomGraph:
    """A batch of ASE structures of one level of theory."""
    graphs = [
        build_graph(
            positions=atoms.positions,
            atomic_numbers=atoms.numbers,
            total_charge=0.0,
            spin_multiplicity=1,
            cell=atoms.cell.array if atoms.pbc.any() else None,
            pbc=atoms.pbc,
            level_index=level,
        )
        for atoms in structures
    ]
    return collate([with_neighbors(graph, CUTOFF) for graph in graphs])


def shaken(atoms: Atoms, seed: int) -> Atoms:
    """The structure with its atoms moved by 0.05 Å."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0, 0.05, moved.positions.shape)
    return moved


def largest(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference of a list, each relative to the norm of what is expected."""
    return max(
        float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-6)) for a, b in zip(found, expected, strict=True)
    )


def gradients(model: FoundationModel, outputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of a loss on all outputs."""
    loss = torch.stack([values.double().nan_to_num().square().sum() for values in outputs.values()]).sum()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return [one.clone() for one in found]  # the next replay of a CUDA graph writes over them


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compare_levels(device: str) -> None:
    """Weights for each level of theory: one compiled function serves them all."""
    model = make_model({**SMALL, "level_sharing": 0.5, "radial_elements": True}, levels=("PBE", "CCSD")).to(device)
    compiled, asked = CompiledModel(model), ("energy", "forces")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for level in range(2):
        graph = batch(shaken(molecule("H2O"), 1), shaken(molecule("CH4"), 2), level=level).to(device)
        found = compiled(graph, properties=asked, create_graph=True)
        expected = model(graph, properties=asked, create_graph=True)
        say(f"level {level} outputs {largest([found[name] for name in asked], [expected[name] for name in asked]):.3e}")
        say(f"level {level} gradients {largest(gradients(model, found), gradients(model, expected)):.3e}")
    say(f"levels compiled {torch._dynamo.utils.counters['stats']['unique_graphs'] - before}")


def compare_electrostatics(device: str) -> None:
    """Free molecules whose charges interact and act back on the features: pairs of all kinds, and none."""
    model = make_model(SMALL, long_range={"kind": "coulomb", "feedback": {"rounds": 1, "hidden": 4}}).to(device)
    compiled, asked = CompiledModel(model), ("dipole", "energy", "forces")
    for number, sizes in enumerate([("H2O", "CH4", "CH3OH"), ("C6H6", "H2O"), ("H2O", "O")]):
        graph = batch(*(shaken(molecule(name), seed) for seed, name in enumerate(sizes))).to(device)
        found = compiled(graph, properties=asked, create_graph=True)
        expected = model(graph, properties=asked, create_graph=True)
        outputs = largest([found[name] for name in asked], [expected[name] for name in asked])
        say(f"electrostatics {number} outputs {outputs:.3e}")
        difference = largest(gradients(model, found), gradients(model, expected))
        say(f"electrostatics {number} gradients {difference:.3e}")


def compare_limit(device: str) -> None:
    """What torch compiles at most is of each model; beyond it one message, or the eager path. Traced only: quicker."""
    asked, single = ("energy",), batch(molecule("CH4")).to(device)
    several = batch(molecule("H2O"), molecule("CH4")).to(device)
    kept = torch.compile, compilation.MOST_COMPILED
    torch.compile, compilation.MOST_COMPILED = functools.partial(_traced, torch.compile), 1
    strict = CompiledModel(make_model(SMALL).to(device))
    allowed = CompiledModel(make_model(SMALL).to(device), fallback="eager")
    for path in (strict, allowed):
        path(several, properties=asked)
    with pytest.raises(InputError, match="these properties were compiled 1 times already; allowed: not to compile"):
        strict(single, properties=asked)
    with pytest.warns(UserWarning, match="compiled 1 times already; going on without"):
        found = allowed(single, properties=asked)
    say(f"limit outputs {largest([found['energy']], [allowed.model(single, properties=asked)['energy']]):.3e}")
    torch.compile, compilation.MOST_COMPILED = kept


def _traced(compiler: Callable[..., object], function: Callable[..., object], **_: object) -> object:
    return compiler(function, fullgraph=True, backend="eager")


def compare_calculators(model: FoundationModel, device: str) -> None:
    """In double precision: against the eager one, and what physics asks of the compiled one, all of one size."""
    atoms = shaken(molecule("H2O2"), 16)
    energies, forces = [], []
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for compile_it in (False, True):
        atoms.calc = FoundationCalculator(model, charge=0, spin=1, dtype="float64", device=device, compile=compile_it)
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    say(f"calculator energy {abs(energies[0] - energies[1]):.3e}")
    say(f"calculator forces {float(np.abs(forces[0] - forces[1]).max()):.3e}")
    energy, force, places = energies[1], forces[1], atoms.positions.copy()

    def at(positions: np.ndarray) -> float:
        atoms.positions = positions
        return atoms.get_potential_energy()

    for what, sign in (("rotation", 1.0), ("reflection", -1.0)):
        orthogonal = sign * random_rotation(0)
        say(f"calculator {what} of the energy {abs(at(places @ orthogonal.T) - energy):.3e}")
        error = np.abs(atoms.get_forces() - force @ orthogonal.T).max() / np.abs(force).max()
        say(f"calculator {what} of forces {float(error):.3e}")
    step = 1e-4
    for number, direction in enumerate(np.random.default_rng(0).normal(size=(3, *places.shape))):
        ends = [at(places + amount * step * direction) for amount in (1, -1, 2, -2)]
        slope = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
        say(f"slope {number} {abs(float((force * direction).sum()) + slope) / float(np.abs(force).max()):.3e}")
    say(f"calculator compiled {torch._dynamo.utils.counters['stats']['unique_graphs'] - before}")


def compare_turned(compiled: CompiledModel, structures: Sequence[Atoms], device: str) -> None:
    """Energies stay and forces turn where whole structures are rotated or reflected, in single precision."""
    for what, sign in (("rotation", 1.0), ("reflection", -1.0)):
        orthogonal = sign * random_rotation(1)
        turned = []
        for atoms in structures:
            turned.append(atoms.copy())
            turned[-1].set_cell(atoms.cell.array @ orthogonal.T)
            turned[-1].positions = atoms.positions @ orthogonal.T
        before, after = (
            compiled(batch(*some).to(device), properties=("energy", "forces")) for some in (structures, turned)
        )
        expected = before["forces"] @ torch.from_numpy(orthogonal).to(before["forces"]).T
        error = largest([after["energy"], after["forces"]], [before["energy"], expected])
        say(f"{what} XS {error:.3e}")


def main(device: str = "cpu") -> None:
    """Compare training steps of several sizes, the calculator in double precision, then forces of the XS model.

    On two threads, where torch's own compiled sums by index change from run to run and have written beyond arrays.
    """
    torch.set_num_threads(2)
    model = make_model(SMALL).to(device)
    compiled = CompiledModel(model)
    water, methane, silicon = molecule("H2O"), molecule("CH4"), bulk("Si", cubic=True)
    sizes = [
        batch(shaken(water, 1), shaken(methane, 2)),
        batch(shaken(silicon, 3), shaken(water, 4), shaken(water, 5)),
        batch(shaken(silicon, 6), shaken(methane, 7)),
        batch(*(shaken(methane, seed) for seed in range(8, 13))),
        batch(shaken(methane, 14)),
        batch(shaken(silicon, 15)),
    ]
    sizes = [graph.to(device) for graph in sizes]
    asked = ("energy", "forces")
    for number, graph in enumerate(sizes):
        found = compiled(graph, properties=asked, create_graph=True)
        expected = model(graph, properties=asked, create_graph=True)
        outputs = largest([found[name] for name in asked], [expected[name] for name in asked])
        say(f"outputs {number} {outputs:.3e}")
        say(f"gradients {number} {largest(gradients(model, found), gradients(model, expected)):.3e}")
    twice = [gradients(model, compiled(sizes[2], properties=asked, create_graph=True)) for _ in range(2)]
    say(f"repeated gradients {largest(twice[0], twice[1]):.3e}")
    say(f"compiled {torch._dynamo.utils.counters['stats']['unique_graphs']}")
    compare_levels(device)
    compare_electrostatics(device)
    compare_limit(device)
    compare_calculators(model, device)
    model = make_model({}).to(device)
    compiled = CompiledModel(model)
    found, expected = compiled(sizes[1], properties=asked), model(sizes[1], properties=asked)
    say(f"outputs XS {largest([found[name] for name in asked], [expected[name] for name in asked]):.3e}")
    compare_turned(compiled, [shaken(silicon, 3), shaken(water, 4), shaken(water, 5)], device)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
