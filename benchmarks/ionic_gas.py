"""Are charges recovered from energies and forces alone? A gas of ±1 ions in periodic cells, whose charges are known.

    python benchmarks/ionic_gas.py make gas.xyz
    foundation train tasks/ionic_gas data.gas.source=gas.xyz --out runs/gas
    python benchmarks/ionic_gas.py check runs/gas

Ions interact by the Coulomb energy of point charges (Ewald) and repel each other at short distances. The model is told
neither charges nor dipoles. `check` makes other frames and prints the squared correlation of the model's charges with
the true ones, and their slope.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch

import foundation
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import Interaction
from foundation.electrostatics.interaction import InteractionConfig
from foundation.electrostatics.sources import Sources

NUM_FRAMES = 250
NUM_CHECKED = 20
NUM_IONS = 32
BOX = 14.0
"""Å; a density of a dilute melt."""
CLOSEST = 1.9
"""Å."""
POINT = 0.25
"""Å; width of charges that are points for each other at `CLOSEST` (erfc(1.9 / 0.5) = 8e-8)."""
REPULSION = (0.2, 2.0)
"""eV and Å of 4ε(s/r)¹²."""


def gas(rng: np.random.Generator) -> ase.Atoms:
    """Ions at random, none closer than `CLOSEST`, with energy (eV) and forces (eV/Å)."""
    positions = np.empty((0, 3))
    while len(positions) < NUM_IONS:
        trial = rng.uniform(0, BOX, 3)
        away = positions - trial
        away -= BOX * np.round(away / BOX)
        if not len(positions) or np.linalg.norm(away, axis=1).min() > CLOSEST:
            positions = np.vstack([positions, trial])
    numbers = np.array([11, 17] * (NUM_IONS // 2))
    graph = collate(
        [
            with_neighbors(
                build_graph(
                    positions=positions,
                    atomic_numbers=numbers,
                    total_charge=0,
                    spin_multiplicity=1,
                    cell=np.eye(3) * BOX,
                    pbc=True,
                ),
                BOX / 2,
            )
        ]
    )
    graph.positions.requires_grad_(True)
    energy = coulomb(graph) + repulsion(graph)
    (gradient,) = torch.autograd.grad(energy, graph.positions)
    frame = ase.Atoms(numbers, positions, cell=np.eye(3) * BOX, pbc=True)
    frame.info["REF_energy"] = float(energy.detach())
    frame.arrays["REF_forces"] = -gradient.numpy()
    frame.arrays["true_charges"] = charges_of(frame)
    return frame


def charges_of(frame: ase.Atoms) -> np.ndarray:
    """+1 e for sodium, -1 e for chlorine."""
    return np.where(frame.numbers == 11, 1.0, -1.0)


def coulomb(graph: AtomGraph) -> torch.Tensor:
    """Of point charges in a periodic cell, eV."""
    charges = torch.where(graph.atomic_numbers == 11, 1.0, -1.0).double()
    return Interaction(InteractionConfig.model_validate({"smearing": POINT})).energy(Sources(charges), graph)[0]


def repulsion(graph: AtomGraph) -> torch.Tensor:
    """4ε(s/r)¹² over pairs within half a cell, eV."""
    depth, size = REPULSION
    shift = graph.edge_shifts @ graph.cell[0]
    distances = (graph.positions[graph.senders] - graph.positions[graph.receivers] + shift).square().sum(1).sqrt()
    return (2 * depth * (size / distances) ** 12).sum()


def main() -> None:
    """Make the gas, or compare charges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("file", type=Path)
    check = commands.add_parser("check")
    check.add_argument("run", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        rng = np.random.default_rng(0)
        ase.io.write(arguments.file, [gas(rng) for _ in range(NUM_FRAMES)])
        return
    model = foundation.load(str(arguments.run))
    rng = np.random.default_rng(1)
    found, true = [], []
    for _ in range(NUM_CHECKED):
        frame = gas(rng)
        prediction = model.predict(frame, properties=["partial_charges"], charge=0, spin=1)
        assert not isinstance(prediction, list)
        found.append(np.asarray(prediction.values["partial_charges"]))
        true.append(charges_of(frame))
    predicted, expected = np.concatenate(found), np.concatenate(true)
    correlation = float(np.corrcoef(predicted, expected)[0, 1])
    residual = 1 - ((predicted - expected) ** 2).sum() / ((expected - expected.mean()) ** 2).sum()
    slope = float(np.polyfit(expected, predicted, 1)[0])
    sys.stdout.write(
        f"{len(predicted)} ions: squared correlation {correlation**2:.5f}, "
        f"R² without refitting {residual:.5f}, slope {slope:.4f}\n"
    )


if __name__ == "__main__":
    main()
