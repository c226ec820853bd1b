"""How much of the processes' time batches waste: padding of the neighbour table and waiting for each other.

    python benchmarks/batch_waste.py

A mixture of QM7-X, dipeptides and Li-P-S crystals, 5 Å. The time of a step goes with the largest cost of any process's
batch: slots of the padded table (atoms × the most neighbours in the batch), as for the equivariant backbone, or edges,
as for backbones that read the list of edges. Waste is the part of all processes' time beyond what the structures would
cost each on its own.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from foundation.data.bounds import BatchConfig, Bounds
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
    parser = argparse.ArgumentParser(description=__doc__)
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
    mixture = Mixture(
        {card: len(part) for card, part in zip(CARDS, parts, strict=True)},
        weights={},
        config=MixtureConfig(temperature=arguments.temperature),
        seed=0,
    )
    print("mean of 4 epochs          ranks  steps   waste, slots   waste, edges   plan, s")
    for name, config in KINDS.items():
        for ranks in (1, 2, 4):
            bounds = Bounds(config, num_atoms=atoms, num_neighbors=neighbors, name=graphs.name)
            start = time.process_time()
            plan = TrainingBatches(mixture, bounds=bounds, num_ranks=ranks)
            seconds = time.process_time() - start
            waste = []
            for epoch in range(4):
                batches = plan.batches(epoch)
                used_slots = np.array([atoms[batch].sum() * neighbors[batch, 1].max() for batch in batches])
                used_edges = np.array([neighbors[batch, 0].sum() for batch in batches])
                for key, bound in (("atoms", config.max_atoms), ("slots", config.max_slots)):
                    used = used_slots if key == "slots" else np.array([atoms[batch].sum() for batch in batches])
                    assert bound is None or used.max() <= bound
                assert config.max_edges is None or used_edges.max() <= config.max_edges
                drawn = np.concatenate(batches)
                waste.append(
                    [
                        1.0 - least / (ranks * used.reshape(-1, ranks).max(axis=1).sum())
                        for least, used in ((slots[drawn].sum(), used_slots), (neighbors[drawn, 0].sum(), used_edges))
                    ]
                )
            in_slots, in_edges = np.mean(waste, axis=0)
            print(f"{name:25s} {ranks:5d} {plan.num_steps:6d} {in_slots:13.1%} {in_edges:13.1%} {seconds:11.2f}")


if __name__ == "__main__":
    main()
