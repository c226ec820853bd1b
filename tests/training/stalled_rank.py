"""Run by `test_rank_watch.py`: two ranks, of which the second never gets its fourth batch, asked for before step 3.

Both faults at once, each with two ranks of its own. Argument: folder, to which what each pair says goes as FAULT.txt.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from foundation.run.ranks import trainer_arguments
from foundation.training.rank_watch import RankWatch, timeout_seconds

FAULTS = ("hangs", "freezes")


class Line(LightningModule):
    """Something with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Tensor) -> Tensor:
        """Any loss."""
        return (self.weight * batch).square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Batches:
    """The fourth one comes only to the first rank: the other waits for it, or is stopped as a whole."""

    def __init__(self, rank: int, *, freezes: bool) -> None:
        self.rank, self.freezes = rank, freezes

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(100):
            if number == 3 and self.rank == 1:
                if self.freezes:
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(10_000)
            yield torch.ones(2)


def train(rank: int, port: int, fault: str, said: Path) -> None:
    """Be one rank."""
    with said.open("a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    trainer = Trainer(
        **trainer_arguments({"accelerator": "cpu", "devices": 2}),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RankWatch(timeout_seconds())],
    )
    trainer.fit(Line(), Batches(rank, freezes=fault == "freezes"))


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main(folder: Path) -> None:
    """Start all ranks, and write how the first and the second of each pair ended."""
    torch.set_num_threads(1)
    context = get_context("fork")
    pairs = {}
    for fault in FAULTS:
        port, said = free_port(), folder / f"{fault}.txt"
        pairs[fault] = [context.Process(target=train, args=(rank, port, fault, said)) for rank in range(2)]
        for rank in pairs[fault]:
            rank.start()
    for fault, ranks in pairs.items():
        ranks[0].join()
        if fault == "freezes":
            ranks[1].kill()
        ranks[1].join()
        sys.stdout.write(f"{fault} {[rank.exitcode for rank in ranks]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
