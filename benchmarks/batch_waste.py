"""How much of the processes' time batches waste: padding of the neighbour table and waiting for each other.

    python benchmarks/batch_waste.py

A mixture of QM7-X, dipeptides and Li-P-S crystals, 5 Å. The time of a step goes with the largest cost of any
process's batch. For the equivariant backbone that is slots of the padded table (atoms × the most neighbours in the
batch) and, for each atom, as much as `ATOM_SLOTS` of them; for backbones that read the list of edges it is edges. Waste
is the part of all processes' time beyond what the structures would cost each on its own.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from foundation.data.bounds import ATOM_SLOTS, BatchConfig, Bounds
from foundation.data.card import DatasetConfig, resolve
from foundation.data.graphs import ConcatenatedGraphs, GraphSequence, MemoryBudget
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.prepare import prepare
from foundation.data.sampler import TrainingBatches

CARDS = ("qm7x_small", "spice_polar_dipeptides", "lips20")
CUTOFF = 5.0
KINDS = {
    "in_order, 32 structures": BatchConfig(max_structures=32),
    "in_order, bounds": BatchConfig(max_structures=4096, max_atoms=1024, max_edges=24_000, max_slots=32_000),
    "full": BatchConfig(max_structures=4096, max_atoms=1024, max_edges=24_000, packing="full"),
    "similar": BatchConfig(max_structures=4096, max_atoms=2048, max_edges=32_000, max_slots=32_000, packing="similar"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperature", type=float)
    arguments = parser.parse_args()
    parts = []
    for number, card in enumerate(CARDS):
        store = prepare(resolve(DatasetConfig(card=card)))
        rows = np.arange(len(store))
        parts.append(
            GraphSequence(store, rows, cutoff=CUTOFF, level_index=0, dataset_index=number, budget=MemoryBudget(0))
        )
    graphs = ConcatenatedGraphs(parts)
    atoms, neighbors = graphs.num_atoms, graphs.count_neighbors()
    slots = atoms * neighbors[:, 1].astype(np.int64)
    costs = {"time": slots + ATOM_SLOTS * atoms, "slots": slots, "edges": neighbors[:, 0].astype(np.int64)}
    mixture = Mixture(
        {card: len(part) for card, part in zip(CARDS, parts, strict=True)},
        weights={},
        config=MixtureConfig(temperature=arguments.temperature),
        seed=0,
    )
    print("mean of 4 epochs          ranks  steps    slots and atoms   slots alone   edges   plan, s")
    for name, config in KINDS.items():
        for ranks in (1, 2, 4):
            bounds = Bounds(config, num_atoms=atoms, num_neighbors=neighbors, name=graphs.name)
            start = time.process_time()
            plan = TrainingBatches(mixture, bounds=bounds, num_ranks=ranks)
            seconds = time.process_time() - start
            waste = []
            for epoch in range(4):
                batches = plan.batches(epoch)
                num_atoms = np.array([atoms[batch].sum() for batch in batches])
                used = {"slots": num_atoms * [neighbors[batch, 1].max() for batch in batches]}
                used["time"] = used["slots"] + ATOM_SLOTS * num_atoms
                used["edges"] = np.array([neighbors[batch, 0].sum() for batch in batches])
                assert config.max_atoms is None or num_atoms.max() <= config.max_atoms
                assert config.max_slots is None or used["slots"].max() <= config.max_slots
                assert config.max_edges is None or used["edges"].max() <= config.max_edges
                drawn = np.concatenate(batches)
                waste.append(
                    [
                        1.0 - least[drawn].sum() / (ranks * used[key].reshape(-1, ranks).max(axis=1).sum())
                        for key, least in costs.items()
                    ]
                )
            in_time, in_slots, in_edges = np.mean(waste, axis=0)
            print(
                f"{name:25s} {ranks:5d} {plan.num_steps:6d} {in_time:17.1%} {in_slots:13.1%} {in_edges:8.1%} "
                f"{seconds:8.2f}"
            )


if __name__ == "__main__":
    main()
