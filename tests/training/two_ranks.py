"""Run by `test_two_ranks.py` as a program: one training step and one validation, on as many processes as asked for.

Arguments: folder of the results, number of processes. Every process count sees the same eight structures in a step;
only one of them has forces, only the last four have a handedness, and none has a dipole, although the model has a head.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file

from foundation.backbones import EquivariantConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.scaling import fit_scaling
from foundation.training.module import FoundationModule
from foundation.training.objectives import SupervisedConfig, build_objectives
from foundation.training.optim import AdamWConfig
from foundation.training.schedule import ScheduleConfig

CUTOFF = 3.0
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


def make_graphs() -> list[AtomGraph]:
    """Eight structures with few labels."""
    random = np.random.default_rng(0)
    graphs = []
    for index in range(8):
        size = 5 + index % 3
        targets = {"energy": random.normal(size=())}
        if index == 6:
            targets["forces"] = random.normal(size=(size, 3))
        if index >= 4:
            targets["handedness"] = np.array(1.0 if index % 2 else -1.0)
        graph = build_graph(
            positions=CORNERS[:size] * 1.3 + random.normal(0, 0.2, (size, 3)),
            atomic_numbers=random.choice([1, 6], size),
            total_charge=0.0,
            spin_multiplicity=1,
            targets=targets,
            structure_index=index,
        )
        graphs.append(with_neighbors(graph, CUTOFF))
    return graphs


class SharedBatches:
    """One global batch of eight structures, dealt out to the ranks."""

    def __init__(self, graphs: list[AtomGraph], trainer: Trainer) -> None:
        self.graphs, self.trainer = graphs, trainer

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[AtomGraph]:
        share = len(self.graphs) // self.trainer.world_size
        start = share * self.trainer.global_rank
        yield collate(self.graphs[start : start + share])


class KeepGradients(Callback):
    """Holds what the backward pass left, after ranks have averaged."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        del trainer, optimizer
        for name, parameter in pl_module.model.named_parameters():
            if parameter.grad is not None:
                self.gradients[f"gradient {name}"] = parameter.grad.clone()


def main(folder: Path, num_ranks: int) -> None:
    """Train one step and write gradients and metrics."""
    torch.manual_seed(0)
    graphs = make_graphs()
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
    names = ("energy", "handedness", "dipole")
    config = ModelConfig(
        backbone=backbone, heads={n: default_head(n) for n in names}, elements=(1, 6), levels=("none",)
    )
    model = FoundationModel(config)
    model.prepare(
        fit_scaling(graphs, properties=model.properties, levels=("none",), isolated_atoms={}), collate(graphs)
    )
    tasks = {n: SupervisedConfig(property=n, weight=1.0) for n in ("energy", "forces", "handedness")}
    module = FoundationModule(
        model.double(),
        build_objectives(tasks, model=model, dataset_names=("set",)),
        optimizer=AdamWConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
        ema=None,
        dataset_names=("set",),
        seed=0,
    )
    keep = KeepGradients()
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        devices=num_ranks,
        strategy=DDPStrategy(process_group_backend="gloo", find_unused_parameters=True) if num_ranks > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[keep],
    )
    batches = SharedBatches(graphs, trainer)
    trainer.fit(module, batches, batches)
    results = {name: value.to(torch.float64) for name, value in trainer.callback_metrics.items()}
    save_file(keep.gradients | results, folder / f"{num_ranks}_{trainer.global_rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
