"""Run by `test_ranks.py` as a program: the same global batches on as many processes as asked for.

Argument: folder of the results. Every number of processes sees the same eight structures in a global batch. They come
from two sets: energies and forces, some missing, in one; dipoles and a few handednesses in the other. Batches cycle
through both sets side by side, so that a rank uses heads that its neighbour does not; the first set alone; the second
one alone; and a batch of which only one structure has any label. A head for the gap is never used. Two
processes compute layers anew in the backward pass, the others keep what is in them.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file

from foundation.backbones import EquivariantConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.run.ranks import trainer_arguments
from foundation.scaling import fit_scaling
from foundation.training.module import FoundationModule
from foundation.training.objectives import SupervisedConfig, build_objectives
from foundation.training.optim import AdamWConfig
from foundation.training.schedule import ScheduleConfig

CUTOFF = 3.0
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
STRUCTURES = 8
"""Of a global batch."""
CASES = {"every batch": (20, 1, (1, 2, 4)), "accumulated": (4, 2, (1, 2))}
"""Name -> steps, batches that are accumulated in one, numbers of processes."""
DATASETS = ("forces_set", "dipole_set")
HEADS = ("energy", "dipole", "handedness", "gap")


def make_batches(number: int) -> list[list[AtomGraph]]:
    """Global batches."""
    random = np.random.default_rng(0)
    kinds = ((0,) * 4 + (1,) * 4, (0,) * STRUCTURES, (1,) * STRUCTURES, (None,) * 5 + (1, None, None))
    return [[_graph(random, place, kind) for place, kind in enumerate(kinds[one % 4])] for one in range(number)]


def _graph(random: np.random.Generator, place: int, dataset: int | None) -> AtomGraph:
    """A structure of one data set; of the first and without any label for None."""
    size = 4 + place % 4
    targets: dict[str, Any] = {}
    if dataset == 0 and place % 3 != 1:
        targets["energy"] = random.normal(size=())
    if dataset == 0 and place % 3 != 2:
        targets["forces"] = random.normal(size=(size, 3))
    if dataset == 1:
        targets["dipole"] = random.normal(size=3)
        if place in (5, 7):
            targets["handedness"] = -1.0 if place == 5 else 1.0
    graph = build_graph(
        positions=CORNERS[:size] * 1.3 + random.normal(0, 0.2, (size, 3)),
        atomic_numbers=random.choice([1, 6], size),
        total_charge=0.0,
        spin_multiplicity=1,
        targets=targets,
        dataset_index=dataset or 0,
        structure_index=place,
    )
    return with_neighbors(graph, CUTOFF)


class SharedBatches:
    """Global batches, dealt out to the ranks."""

    def __init__(self, batches: list[list[AtomGraph]], trainer: Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[AtomGraph]:
        share = STRUCTURES // self.trainer.world_size
        start = share * self.trainer.global_rank
        for batch in self.batches:
            yield collate(batch[start : start + share])


class KeepGradients(Callback):
    """Holds what the backward pass left at every step, after ranks have averaged."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        del optimizer
        assert isinstance(pl_module, FoundationModule)
        for name, parameter in pl_module.model.named_parameters():
            if parameter.grad is not None:
                self.gradients[f"gradient {trainer.global_step:02d} {name}"] = parameter.grad.clone()


def train(folder: Path, *, num_ranks: int, num_steps: int, accumulated: int) -> None:
    """Train and write gradients, weights and metrics."""
    torch.manual_seed(0)
    batches = make_batches(num_steps * accumulated)
    graphs = [graph for batch in batches for graph in batch]
    backbone = EquivariantConfig(
        cutoff=CUTOFF,
        channels=4,
        pseudo_channels=2,
        radial_groups=2,
        num_layers=2,
        edge_degree=1,
        degree=1,
        product_degree=1,
    )
    config = ModelConfig(
        backbone=backbone, heads={n: default_head(n) for n in HEADS}, elements=(1, 6), levels=("none",)
    )
    model = FoundationModel(config)
    model.prepare(
        fit_scaling(graphs, properties=model.properties, levels=("none",), isolated_atoms={}), collate(graphs)
    )
    tasks = {n: SupervisedConfig(property=n, weight=1.0) for n in ("energy", "forces", "dipole", "handedness")}
    module = FoundationModule(
        model.double(),
        build_objectives(tasks, model=model, dataset_names=DATASETS),
        optimizer=AdamWConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
        ema=None,
        dataset_names=DATASETS,
        seed=0,
        activation_checkpointing=num_ranks == 2,
    )
    keep = KeepGradients()
    trainer = Trainer(
        **trainer_arguments({"accelerator": "cpu", "devices": num_ranks, "accumulate_grad_batches": accumulated}),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        log_every_n_steps=num_steps,
        callbacks=[keep],
    )
    trainer.fit(module, SharedBatches(batches, trainer), SharedBatches(batches[:2], trainer))
    results = {name: value.to(torch.float64) for name, value in trainer.callback_metrics.items()}
    results |= {f"weight {name}": parameter.detach() for name, parameter in module.model.named_parameters()}
    save_file(keep.gradients | results, folder / f"{num_ranks}_{trainer.global_rank}.safetensors")


def _start_rank(rank: int, port: int, folder: Path, num_ranks: int, num_steps: int, accumulated: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(folder, num_ranks=num_ranks, num_steps=num_steps, accumulated=accumulated)


def main(folder: Path) -> int:
    """Fork the ranks, which spares importing everything anew in each; exit code of the program."""
    context = get_context("fork")
    for name, (num_steps, accumulated, numbers) in CASES.items():
        (folder / name).mkdir(parents=True)
        for num_ranks in numbers:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            arguments = (port, folder / name, num_ranks, num_steps, accumulated)
            ranks = [context.Process(target=_start_rank, args=(rank, *arguments)) for rank in range(num_ranks)]
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join()
            if any(rank.exitcode != 0 for rank in ranks):
                return 1
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1])))
