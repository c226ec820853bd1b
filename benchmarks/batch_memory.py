"""Memory of training steps on a data set that mixes structures of 3 and of 400 atoms, under one bound of batches.

    python benchmarks/batch_memory.py [--device cuda] [--size backbones/xs]

Water molecules and clusters of 80 methanes, shuffled. Every batch of two epochs is trained on once. The most memory
that any takes is compared with what the batches take that are tried before the first step on a CUDA device (`fullest`):
where the bound keeps its promise, no batch of training takes more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from foundation.backbones import BackboneConfig
from foundation.commands.cost import stated_backbones
from foundation.cost import build_model, held_tensors, labelled_graph, peak_mbyte, training_step
from foundation.data.bounds import Batch, BatchConfig, Bounds
from foundation.data.graph import AtomGraph, collate
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.sampler import TrainingBatches

SPACING = 4.2
"""Å between methanes of a cluster."""
SHAKE = 0.1
BOUNDS = {"max_structures": 4096, "max_atoms": 1200, "max_slots": 40_000}
KINDS = {
    "in_order": BatchConfig(**BOUNDS),
    "full": BatchConfig(**BOUNDS, packing="full"),
    "similar": BatchConfig(**BOUNDS, packing="similar"),
    "in_order, 16 structures and no other bound": BatchConfig(max_structures=16),
}


def structures(waters: int, clusters: int) -> list[Atoms]:
    """Water molecules and clusters of 400 atoms, each shaken anew."""
    generator = np.random.default_rng(0)
    methane, (x, y, z) = molecule("CH4"), (5, 4, 4)
    grid = SPACING * np.stack(np.meshgrid(*map(np.arange, (x, y, z)), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    cluster = Atoms(np.tile(methane.numbers, x * y * z), (methane.positions + grid).reshape(-1, 3))
    made = [molecule("H2O") for _ in range(waters)] + [cluster.copy() for _ in range(clusters)]
    for atoms in made:
        atoms.positions += generator.normal(0, SHAKE, atoms.positions.shape)
    return made


class Steps:
    """Training steps of one model, measured.

    Args:
        backbone: Its size.
        device: Where.
    """

    def __init__(self, backbone: BackboneConfig, device: torch.device) -> None:
        self.device = device
        self.model = build_model(backbone, structures(8, 0)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self._warm = False

    def peak(self, graphs: Sequence[AtomGraph]) -> float:
        """10⁶ bytes that a step on one batch takes at most, weights included."""
        batch = collate(graphs).to(str(self.device))
        work = training_step(self.model, batch, self.optimizer, autocast=None)
        if not self._warm:
            work()  # gives the optimizer its state
            self._warm = True
        self.optimizer.zero_grad(set_to_none=True)
        return peak_mbyte(work, device=self.device, held=held_tensors(self.model, self.optimizer, batch))


def training_batches(graphs: Sequence[AtomGraph], config: BatchConfig) -> TrainingBatches:
    """The batches of training under these bounds."""
    neighbors = np.array([(len(one.senders), int(torch.bincount(one.receivers).max())) for one in graphs])
    atoms = np.array([len(one.positions) for one in graphs])
    bounds = Bounds(config, num_atoms=atoms, num_neighbors=neighbors, name=str)
    mixture = Mixture({"mixed": len(graphs)}, weights={}, config=MixtureConfig(), seed=0)
    return TrainingBatches(mixture, bounds=bounds, num_ranks=1)


def largest_peaks(
    steps: Steps, graphs: Sequence[AtomGraph], config: BatchConfig, *, epochs: int
) -> tuple[float, float]:
    """Most memory of any batch of so many epochs, and of those that are tried before the first step.

    Args:
        steps: Take them.
        graphs: What is trained on.
        config: Bounds.
        epochs: Of training.
    """
    plan = training_batches(graphs, config)

    def most(batches: Iterable[Batch]) -> float:
        return max(steps.peak([graphs[int(index)] for index in batch]) for batch in batches)

    return most(batch for epoch in range(epochs) for batch in plan.batches(epoch)), most(plan.fullest(0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="backbones/xs")
    arguments = parser.parse_args()
    (backbone,) = stated_backbones([arguments.size]).values()
    steps = Steps(backbone, torch.device(arguments.device))
    graphs = [labelled_graph(atoms, cutoff=backbone.cutoff) for atoms in structures(1200, 12)]
    for name, config in KINDS.items():
        trained, tried = largest_peaks(steps, graphs, config, epochs=2)
        sys.stdout.write(f"{name}: at most {trained:.0f} MB in training, {tried:.0f} MB tried before\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
