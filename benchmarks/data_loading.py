"""How fast structures are written to a store, read from it and put into batches; CPU seconds on one core.

    python benchmarks/data_loading.py --structures 20000

Compares reading the mapped columns with formatting every row by `datasets.Dataset.__getitem__` on the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import numpy as np

from foundation.data.graph import collate
from foundation.data.graphs import ConcatenatedGraphs, GraphSequence, MemoryBudget
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.readers import Record
from foundation.data.sampler import BatchConfig, Bounds, TrainingBatches
from foundation.data.store import Store

ATOMS, CUTOFF, BATCH = 21, 5.0, 8
"""As aspirin."""


def records(count: int) -> Iterator[Record]:
    """Loose clusters of 21 atoms with energies and forces."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(3), range(3), range(3)), axis=-1).reshape(-1, 3)[:ATOMS] * 1.7
    for number in range(count):
        yield Record(
            positions=grid + random.normal(scale=0.1, size=(ATOMS, 3)),
            atomic_numbers=np.tile([6, 1, 8], ATOMS // 3),
            cell=None,
            pbc=(False, False, False),
            total_charge=0.0,
            spin_multiplicity=1,
            targets={"energy": np.array(float(number)), "forces": random.normal(size=(ATOMS, 3))},
            group="",
            split=None,
            smiles=None,
            where=f"frame {number}",
        )


def per_second(action: Callable[[], int]) -> float:
    """How many of what `action` counts are done in a CPU second."""
    start = time.process_time()
    count = action()
    return count / (time.process_time() - start)


def measure(count: int, folder: Path) -> dict[str, float]:
    """All figures by name."""
    figures: dict[str, float] = {}
    source = list(records(count))
    path = folder / "store"
    figures["written, validated: structures/s"] = per_second(
        lambda: len(Store.create(path, source, level_of_theory="none", metadata={}))
    )
    start = time.process_time()
    store = Store.open(path)
    store.verify()
    figures["open and verify: s"] = time.process_time() - start
    order = np.random.default_rng(1).permutation(count).tolist()
    figures["columns of one structure, random order: structures/s"] = per_second(
        lambda: sum(1 for row in order if store.arrays(row))
    )
    figures["graphs without edges, random order: structures/s"] = per_second(
        lambda: sum(store.graph(row).num_graphs for row in order)
    )
    rows = datasets.Dataset.from_file(str(path / "structures-00000.arrow"))
    some = [row for row in order if row < len(rows)][:1000]
    figures["same file by datasets.Dataset[row]: structures/s"] = per_second(
        lambda: sum(1 for row in some if rows[row])
    )
    graphs = ConcatenatedGraphs(
        [
            GraphSequence(
                store, np.arange(count), cutoff=CUTOFF, level_index=0, dataset_index=0, budget=MemoryBudget(1 << 33)
            )
        ]
    )
    bounds = Bounds(BatchConfig(max_structures=BATCH), num_atoms=graphs.num_atoms, num_neighbors=None, name=graphs.name)
    mixture = Mixture({"clusters": count}, weights={}, config=MixtureConfig(), seed=0)
    start = time.process_time()
    plan = TrainingBatches(mixture, bounds=bounds, num_ranks=1)
    figures["planning an epoch: s"] = time.process_time() - start
    for epoch, name in enumerate(("first epoch, neighbours included", "later epochs, from memory")):
        start = time.process_time()
        for batch in plan.batches(epoch):
            collate([graphs[structure] for structure in batch.tolist()])
        figures[f"{name}: ms/batch of {BATCH}"] = (time.process_time() - start) / plan.num_steps * 1e3
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.structures, Path(folder))
    for name, value in figures.items():
        print(f"{name:60s} {value:12.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
