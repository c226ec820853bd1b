"""A training run that stopped anywhere goes on with exactly the batches that it has not seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from foundation.data.graphs import ConcatenatedGraphs, GraphSequence, MemoryBudget
from foundation.data.loader import GraphLoader
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.readers import Record
from foundation.data.sampler import BatchConfig, Bounds, TrainingBatches
from foundation.data.store import Store
from foundation.errors import InputError

pytestmark = [
    # Lightning 2.6 with torch 2.13.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_STRUCTURES, BATCH, STEPS, EPOCHS = 22, 5, 5, 3


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., Record]) -> ConcatenatedGraphs:
    """Twenty-two hydrogen molecules."""
    records = [
        make_record(number, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.7 + 0.01 * number]]), element=1)
        for number in range(NUM_STRUCTURES)
    ]
    path = tmp_path_factory.mktemp("resume") / "store"
    store = Store.create(path, records, level_of_theory="PBE", metadata={})
    rows = np.arange(NUM_STRUCTURES)
    budget = MemoryBudget(1 << 30)
    part = GraphSequence(store, rows, cutoff=3.0, level_index=0, dataset_index=0, budget=budget)
    return ConcatenatedGraphs([part])


def make_loader(
    graphs: ConcatenatedGraphs, *, seed: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1
) -> GraphLoader:
    mixture = Mixture({"h2": NUM_STRUCTURES}, weights={}, config=MixtureConfig(), seed=seed)
    bounds = Bounds(BatchConfig(max_structures=BATCH), num_atoms=graphs.num_atoms, num_neighbors=None, name=graphs.name)
    plan = TrainingBatches(mixture, bounds=bounds, num_ranks=ranks)
    return GraphLoader(
        graphs,
        plan=lambda epoch: plan.batches(epoch)[rank::ranks],
        num_workers=workers,
        identity={"seed": seed, "num_ranks": ranks, "num_steps": plan.num_steps},
    )


def structures(loader: GraphLoader, epoch: int) -> list[list[int]]:
    loader.sampler.set_epoch(epoch)
    return [batch.structure_index.tolist() for batch in loader]


@pytest.mark.parametrize(("stop", "workers"), [(0, 0), (1, 0), (2, 0), (STEPS - 1, 0), (STEPS, 0), (3, 2)])
def test_a_saved_position_continues_with_the_next_batch(graphs: ConcatenatedGraphs, stop: int, workers: int) -> None:
    whole = make_loader(graphs)
    expected = [structures(whole, epoch) for epoch in range(EPOCHS)]

    stopped = make_loader(graphs, workers=workers)
    assert structures(stopped, 0) == expected[0]
    stopped.sampler.set_epoch(1)
    batches = iter(stopped)
    for _ in range(stop):
        next(batches)
    state = stopped.state_dict()
    if stop == 0:
        assert (state["epoch"], state["step"]) == (0, STEPS)
    del batches

    resumed = make_loader(graphs, workers=workers)
    resumed.load_state_dict(state)
    rest = [batch.structure_index.tolist() for batch in resumed]
    if stop < STEPS:
        assert rest == expected[1][stop:]
        assert structures(resumed, 2) == expected[2]
    else:
        assert rest == expected[2], "after a whole epoch comes the next"


def test_ranks_share_an_epoch_without_overlap(graphs: ConcatenatedGraphs) -> None:
    loaders = [make_loader(graphs, rank=rank, ranks=3) for rank in range(3)]
    assert len({len(loader) for loader in loaders}) == 1
    served = [structures(loader, 4) for loader in loaders]
    assert all(len(batches) == len(loaders[0]) for batches in served)
    assert sorted(row for batches in served for batch in batches for row in batch) == list(range(NUM_STRUCTURES))


@pytest.mark.parametrize(("changes", "message"), [({"seed": 1}, "seed was 0 and is 1"), ({"ranks": 2}, "num_ranks")])
def test_a_position_amid_other_batches_is_refused(
    graphs: ConcatenatedGraphs, changes: dict[str, int], message: str
) -> None:
    loader = make_loader(graphs)
    next(iter(loader))
    with pytest.raises(InputError, match=f"cannot continue at step 1 of epoch 0.*{message}"):
        make_loader(graphs, **changes).load_state_dict(loader.state_dict())


def test_a_position_between_epochs_may_continue_with_other_batches(graphs: ConcatenatedGraphs) -> None:
    loader = make_loader(graphs)
    structures(loader, 0)
    other = make_loader(graphs, seed=1)
    other.load_state_dict(loader.state_dict())
    assert [batch.structure_index.tolist() for batch in other] == structures(make_loader(graphs, seed=1), 1)


# ------------------------------------------------------------------------------------------------- in Lightning's hands


class _Recorder(lightning.LightningModule):
    """Learns one number and writes down every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, list[int]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch.structure_index.tolist()))
        return (self.weight - batch.targets["energy"].float()).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class _Data(lightning.LightningDataModule):
    def __init__(self, loader: GraphLoader) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> GraphLoader:
        return self.loader


def train(
    graphs: ConcatenatedGraphs, folder: Path, *callbacks: Callback, resume: Path | None = None, max_epochs: int = EPOCHS
) -> _Recorder:
    trainer = lightning.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module = _Recorder()
    trainer.fit(module, datamodule=_Data(make_loader(graphs)), ckpt_path=resume, weights_only=True)
    return module


def test_lightning_resumed_from_every_step_sees_every_batch_once(graphs: ConcatenatedGraphs, tmp_path: Path) -> None:
    every_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = train(graphs, tmp_path, every_step)
    assert [(epoch, step) for epoch, step, _ in whole.seen] == [(e, s) for e in range(EPOCHS) for s in range(STEPS)]
    for done in (1, 3, STEPS, STEPS + 2, 2 * STEPS):
        resumed = train(graphs, tmp_path, resume=tmp_path / f"step={done}.ckpt")
        assert resumed.seen == whole.seen[done:], f"resumed after step {done}"
        assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.slow
def test_two_processes_of_lightning_share_every_epoch(tmp_path: Path) -> None:
    """In processes of its own, because a test process that has used threads cannot be forked into a process group."""
    script = tmp_path / "train.py"
    script.write_text(_TWO_RANKS)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=300, check=False)
    assert done.returncode == 0
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [len(steps) for steps in seen] == [2 * 3, 2 * 3], "every rank takes the same number of steps"
    for epoch in range(2):
        rows = [row for steps in seen for number, batch in steps if number == epoch for row in batch]
        assert sorted(rows) == list(range(NUM_STRUCTURES))


_TWO_RANKS = """
import json
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import torch

from foundation.config import validate
from foundation.data.card import DatasetConfig
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig


class Recorder(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.structure_index.tolist()))
        return (self.weight - batch.targets["energy"].float()).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def on_train_end(self):
        Path(f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))


if __name__ == "__main__":
    frames = [
        f"2\\nProperties=species:S:1:pos:R:3 energy=-{number}.0 pbc=\\"F F F\\"\\nH 0 0 0\\nH 0 0 0.8\\n"
        for number in range(22)
    ]
    Path("h2.xyz").write_text("".join(frames))
    facts = {
        "source": "h2.xyz", "format": "extxyz", "level_of_theory": "PBE", "charge": 0, "spin": 1,
        "properties": {"energy": {"key": "energy", "unit": "eV"}}, "split": {"train": 22},
    }
    data = GraphDataModule(
        {"h2": validate(DatasetConfig, facts, where="test")},
        cutoff=3.0, batch=BatchConfig(max_structures=4), seed=0, cache_dir=Path("cache"),
    )
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )
    trainer.fit(Recorder(), datamodule=data)
"""


def test_lightning_resumed_between_epochs_goes_on_with_the_next(graphs: ConcatenatedGraphs, tmp_path: Path) -> None:
    whole = train(graphs, tmp_path)
    each_epoch = ModelCheckpoint(
        tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True
    )
    train(graphs, tmp_path, each_epoch, max_epochs=2)
    resumed = train(graphs, tmp_path, resume=tmp_path / "epoch=1.ckpt")
    assert resumed.seen == whole.seen[2 * STEPS :]
