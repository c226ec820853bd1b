"""Jobs that cannot work are refused on the command line before anything is computed: exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from foundation.cli import main

Refuse = Callable[..., str]


@pytest.fixture
def refuse(
    write_recipe: Callable[..., Path],
    structure: Callable[..., Atoms],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Refuse:
    """Trains on four structures with overrides, and gives the message."""
    frames = [structure("OH", seed=seed, energy=-1.0 - seed / 9) for seed in range(5)]
    recipe = write_recipe(train=frames[:4], val=frames[4:])

    def run(*overrides: str) -> str:
        assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "batch.max_structures=8", *overrides]) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not (tmp_path / "run").exists()
        return message

    return run


def test_a_global_batch_that_cannot_be_dealt_out(refuse: Refuse) -> None:
    ranks = ("trainer.devices=2",)
    message = refuse("batch.global_structures=5", *ranks)
    assert "batch.global_structures: 5 structures in a step of 2 processes cannot be divided by 2" in message
    assert "allowed: a multiple of 2, such as 4 or 6" in message
    message = refuse("batch.global_structures=6", *ranks, "trainer.accumulate_grad_batches=2")
    assert "with 2 accumulated batches cannot be divided by 4; allowed: a multiple of 4, such as 4 or 8" in message
    message = refuse("batch.global_structures=24", *ranks, "batch.max_structures=4")
    assert "are 12 in a batch, above batch.max_structures (4); allowed: trainer.accumulate_grad_batches=3" in message


def test_more_ranks_than_batches_or_structures(refuse: Refuse) -> None:
    ranks = ("trainer.devices=3",)
    message = refuse("batch.max_structures=2", *ranks)
    assert "4 training structures an epoch are 2 batches, which cannot feed 3 processes; allowed: at most 2" in message
    message = refuse(*ranks, "trainer.num_nodes=2")
    assert "trainer.devices, trainer.num_nodes: 6 processes for 4 training structures; allowed: at most 4" in message


@pytest.mark.parametrize(
    ("tasks", "devices", "message"),
    [
        ("1", "2", "1 task on 1 node, the recipe wants 2 devices on each of 1 node"),
        ("2", "1", "2 tasks on 1 node, the recipe wants 1 device on each of 1 node"),
    ],
)
def test_a_job_with_other_tasks_than_the_recipe_has_devices(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, tasks: str, devices: str, message: str
) -> None:
    job = {"JOB_ID": "7", "JOB_NAME": "x", "STEP_ID": "0", "STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": "1"}
    for name, value in {**job, "NTASKS": tasks, "NTASKS_PER_NODE": tasks, "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert message in refuse(f"trainer.devices={devices}")
