"""On a real Slurm, with the shipped scripts: what was interrupted ends bit for bit where an uninterrupted run ends."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main

from .cluster import KILL_WAIT_SECONDS, Cluster, wait_until

pytestmark = pytest.mark.slurm

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
MEASURED = ("wall_s", "train/structures_per_s", "train/loader_wait_percent", "train/memory_MB")
START_SECONDS = 120
RUN_SECONDS = 600


class Job:
    """A training job and what can befall it."""

    def __init__(self, cluster: Cluster, number: str, run: Path) -> None:
        self.cluster, self.number, self.run = cluster, number, run

    def log(self) -> str:
        return (self.run.parent / f"slurm-{self.number}.out").read_text(encoding="utf-8", errors="replace")

    def steps(self) -> int:
        """Steps in metrics.csv."""
        try:
            return len(logged(self.run))
        except (FileNotFoundError, csv.Error):
            return 0

    def wait_for_step(self, step: int) -> None:
        wait_until(
            lambda: self.steps() > step or self.is_over(),
            seconds=START_SECONDS,
            what=lambda: f"step {step}\n{self.log()}",
        )
        assert self.cluster.state(self.number) == "RUNNING", self.log()

    def wait_for_more(self, steps: int) -> None:
        """Until it has trained on, beyond what was logged so far."""
        self.wait_for_step(self.steps() + steps)

    def is_over(self) -> bool:
        return self.cluster.state(self.number) in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")

    def wait(self) -> None:
        wait_until(self.is_over, seconds=RUN_SECONDS, what=self.log)

    def wait_for_restart(self, restarts: int) -> None:
        """Until it is back in the queue, and then running."""

        seconds, what = START_SECONDS, lambda: f"restart {restarts + 1}\n{self.log()}"
        wait_until(lambda: self.cluster.restarts(self.number) > restarts, seconds=seconds, what=what)
        wait_until(lambda: self.cluster.state(self.number) == "PENDING", seconds=seconds, what=what)
        wait_until(lambda: self.cluster.state(self.number) == "RUNNING", seconds=seconds, what=what)

    def kill_a_task(self) -> None:
        """As in a power cut or an exhausted memory: SIGKILL to one task; then what an administrator does."""
        processes = self.cluster.task_processes(self.number)
        assert len(processes) == 2, processes
        os.kill(random.choice(processes), signal.SIGKILL)
        restarts = self.cluster.restarts(self.number)
        wait_until(lambda: self.cluster.state(self.number) == "FAILED", seconds=KILL_WAIT_SECONDS + 20, what=self.log)
        self.cluster.run("scontrol", "requeue", self.number)
        self.wait_for_restart(restarts)

    def preempt(self) -> None:
        """Submit what is more urgent and needs both nodes."""
        restarts = self.cluster.restarts(self.number)
        urgent = self.cluster.submit(
            "--partition=urgent", *TWO_NODES, "--exclusive", "--output=/dev/null", "--wrap=true", folder=self.run.parent
        )
        wait_until(
            lambda: self.cluster.state(urgent) == "COMPLETED", seconds=KILL_WAIT_SECONDS + 60, what="the urgent job"
        )
        self.wait_for_restart(restarts)


def logged(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]


def assert_same(found: Path, expected: Path) -> None:
    """Weights, averages, errors and every logged step are equal to the last bit."""
    for name in ("model.safetensors", "raw.safetensors"):
        ours, theirs = load_file(found / "model" / name), load_file(expected / "model" / name)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num())]
        assert different == []
    assert json.loads((found / "evaluation.json").read_text()) == json.loads((expected / "evaluation.json").read_text())
    steps = [int(row["step"]) for row in logged(found)]
    assert steps == list(range(len(steps))), "every step once, none left out"
    assert logged(found) == logged(expected)


@pytest.fixture(scope="module")
def start(cluster: Cluster, pretraining: Path, job_environment: dict[str, str], repository: Path):
    def submit(folder: Path, *overrides: str, options: tuple[str, ...] = ()) -> Job:
        number = cluster.submit(
            *TWO_NODES,
            *options,
            str(repository / "slurm" / "train.sbatch"),
            str(pretraining),
            "--out",
            str(folder / "run"),
            *overrides,
            folder=folder,
            **job_environment,
        )
        return Job(cluster, number, folder / "run")

    return submit


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = start(tmp_path_factory.mktemp("uninterrupted"))
    job.wait()
    assert job.cluster.state(job.number) == "COMPLETED", job.log()
    return job.run


def test_killed_preempted_and_signalled_equals_uninterrupted(uninterrupted: Path, start, tmp_path: Path) -> None:
    job = start(tmp_path)
    job.wait_for_step(20)
    assert main(["report", str(job.run)]) == 0, "a running job has a report"
    assert {"train/gradient_norm", "train/loss", "train/denoising_loss"} <= set(logged(job.run)[-1])
    job.kill_a_task()
    assert ": Killed" in job.log()
    job.wait_for_more(5)
    job.preempt()
    assert "interrupted by SIGTERM after step" in job.log()
    job.wait_for_more(5)
    restarts = job.cluster.restarts(job.number)
    job.cluster.run("scancel", "--signal=USR1", job.number)  # what --signal sends before the time limit
    job.wait_for_restart(restarts)
    assert "interrupted by SIGUSR1 after step" in job.log()
    assert "requeueing job" in job.log()
    job.wait()
    assert job.cluster.state(job.number) == "COMPLETED", job.log()
    assert_same(job.run, uninterrupted)
    assert len(list((job.run / "checkpoints").glob("step-*.ckpt"))) == 2


def test_a_cancelled_job_saves_and_stays_cancelled(start, tmp_path: Path) -> None:
    job = start(tmp_path)
    job.wait_for_step(5)
    job.cluster.run("scancel", job.number)
    job.wait()
    time.sleep(2)
    assert job.cluster.state(job.number) == "CANCELLED"
    assert job.cluster.restarts(job.number) == 0
    assert "interrupted by SIGTERM after step" in job.log()
    assert list((job.run / "checkpoints").glob("step-*.ckpt"))


@pytest.mark.slow
def test_the_time_limit_ten_kills_and_preemptions_leave_no_trace(start, tmp_path: Path) -> None:
    """`pytest tests/slurm -m "slurm and slow"`: about a quarter of an hour."""
    longer = "trainer.max_epochs=80"
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole", longer)
    whole.wait()
    # Sent 20 seconds before the limit of one minute, or up to a minute earlier: it may come before training has begun.
    job = start(tmp_path / "cut", longer, options=("--time=1", "--signal=SIGUSR1@20"))
    chance = random.Random(os.environ.get("FOUNDATION_TEST_SEED", "0"))
    job.wait_for_restart(0)
    assert "interrupted by SIGUSR1" in job.log() or "User defined signal 1" in job.log()
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    for kill in range(10):
        job.wait_for_more(1)
        time.sleep(chance.uniform(0, 3))
        job.kill_a_task()
        if kill in (3, 7):
            job.wait_for_more(1)
            job.preempt()
    job.wait()
    assert job.cluster.state(job.number) == "COMPLETED", job.log()
    assert_same(job.run, whole.run)
