"""Which part of a training step is waiting for data, with the real trainer; and what neighbour lists cost.

    python benchmarks/loader_wait.py train --workers 0 1 2
    python benchmarks/loader_wait.py neighbors

`train` trains the recipe (aspirin of rMD17, with `backbones/xs`) twice for each number of workers: with graphs kept
in memory, as small data sets are, and with every graph made anew from the store, neighbour list included, as in data
sets that do not fit. The wait is what `metrics.csv` calls `train/loader_wait_percent`. `neighbors` compares finding the
edges of one structure by this program's list with the training step on it: what a worker has to hide, or a device could
save.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from lightning.pytorch import Trainer

from foundation.commands.cost import stated_backbones
from foundation.cost import aspirin_molecules, build_model, labelled_graph, training_step
from foundation.cost.structures import water_box
from foundation.data.graph import collate
from foundation.data.module import MEMORY_BYTES, GraphDataModule
from foundation.data.neighbors import with_neighbors
from foundation.recipe import load_recipe
from foundation.run.csv_log import CsvLog
from foundation.run.plan import make_plan
from foundation.run.watch import Watch

EVERY = 20
"""Steps between two logs."""
WARM_UP = 2
"""Logs that do not count."""


def train(arguments: argparse.Namespace) -> None:
    """Waiting for data, of every number of workers."""
    recipe = load_recipe(arguments.recipe, overrides=arguments.overrides)
    print(f"{arguments.recipe}, {torch.get_num_threads()} thread(s), {arguments.steps} steps")
    for memory, name in ((MEMORY_BYTES, "in memory"), (0, "from the store")):
        for workers in arguments.workers:
            data = GraphDataModule(
                recipe.data,
                cutoff=recipe.model.backbone.cutoff,
                batch=recipe.batch,
                seed=recipe.seed,
                mixture=recipe.mixture,
                num_workers=workers,
                memory_bytes=memory,
            )
            data.prepare_data()
            data.setup()
            if memory:
                for dataset in data.dataset_names:  # as in every epoch but the first
                    for _ in data.graphs(dataset, "train"):
                        pass
            waits, rates = _fit(make_plan(recipe, data, start=None), arguments.steps)
            print(
                f"{name:15s} {workers} workers: waits {statistics.mean(waits):5.2f} % of the time (worst "
                f"{max(waits):.2f} of {EVERY} steps), {statistics.mean(rates):6.1f} structures/s",
                flush=True,
            )


def _fit(plan: Any, steps: int) -> tuple[list[float], list[float]]:
    """Wait in per cent and structures a second of every log."""
    with tempfile.TemporaryDirectory() as folder:
        log = CsvLog(Path(folder) / "metrics.csv")
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            logger=[log],
            callbacks=[Watch(plan.data, Path(folder), logs_throughput=True)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=plan.recipe.trainer.get("gradient_clip_val"),
            log_every_n_steps=EVERY,
        )
        trainer.fit(plan.module, datamodule=plan.data)
        rows = [row for row in log._rows if row.get("train/loader_wait_percent")][WARM_UP:]
    return [[float(row[f"train/{name}"]) for row in rows] for name in ("loader_wait_percent", "structures_per_s")]  # type: ignore[return-value]


def neighbors(arguments: argparse.Namespace) -> None:
    """Milliseconds of CPU of one neighbour list and of the training step on the same structures."""
    backbone = stated_backbones([arguments.size])[arguments.size]
    structures = {"aspirin, 21 atoms": aspirin_molecules(8)} | {
        f"water, {3 * side**3} atoms": [water_box(side)] for side in (4, 8)
    }
    print(f"{arguments.size}, {torch.get_num_threads()} thread(s), CPU ms a structure; cutoff {backbone.cutoff:g} Å")
    for name, atoms in structures.items():
        graphs = [labelled_graph(one, cutoff=backbone.cutoff) for one in atoms]
        model = build_model(backbone, atoms)
        step = training_step(model, collate(graphs), torch.optim.SGD(model.parameters(), lr=0.0), autocast=None)

        def find(graphs: list[Any] = graphs) -> None:
            for graph in graphs:
                with_neighbors(graph, backbone.cutoff)

        found = [1e3 * _cpu_seconds(work) / len(graphs) for work in (find, step)]
        share = 100 * found[0] / (found[0] + found[1])
        print(f"{name:18s} neighbour list {found[0]:8.3f}   step {found[1]:9.2f}   share {share:5.2f} %", flush=True)


def _cpu_seconds(work: Any) -> float:
    """The median of five calls, after one that does not count."""
    work()
    taken = []
    for _ in range(5):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "neighbors"))
    parser.add_argument("--recipe", default="tasks/rmd17_aspirin")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--size", default="backbones/xs", help="neighbors: the backbone")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="train: of the recipe")
    arguments = parser.parse_intermixed_args()
    (train if arguments.what == "train" else neighbors)(arguments)


if __name__ == "__main__":
    sys.exit(main())
