"""On a real Slurm, with the shipped scripts: what was interrupted ends bit for bit where an uninterrupted run ends."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.cli import main
from tests.same_run import assert_same, logged

from .cluster import Cluster
from .job import TWO_NODES, Job

pytestmark = pytest.mark.slurm

LONGER_EPOCHS, STEPS_AN_EPOCH = 40, 5
KILLS = 10
AT_START = (2, 5, 8)
"""Kills that hit a task while it starts; the others come after a step."""
START_SECONDS = 20.0
"""Those come at a random moment of so many seconds after a process began: before, while or after it meets the other."""

Start = Callable[..., Job]


@pytest.fixture(scope="module")
def start(cluster: Cluster, pretraining: Path, job_environment: dict[str, str], repository: Path) -> Start:
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
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = start(tmp_path_factory.mktemp("uninterrupted"))
    job.wait()
    assert job.state == "COMPLETED", job.log()
    return job.run


def test_killed_preempted_and_signalled_equals_uninterrupted(uninterrupted: Path, start: Start, tmp_path: Path) -> None:
    job = start(tmp_path)
    job.wait_for_step(20)
    with job.standing_still():
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
    assert job.state == "COMPLETED", job.log()
    assert_same(job.run, uninterrupted)
    assert len(list((job.run / "checkpoints").glob("step-*.ckpt"))) == 2


def test_a_cancelled_job_saves_and_stays_cancelled(start: Start, tmp_path: Path) -> None:
    job = start(tmp_path)
    job.wait_for_step(5)
    job.cluster.run("scancel", job.number)
    job.wait()
    time.sleep(2)
    assert job.state == "CANCELLED"
    assert job.cluster.restarts(job.number) == 0
    assert "interrupted by SIGTERM after step" in job.log()
    assert list((job.run / "checkpoints").glob("step-*.ckpt"))


@pytest.mark.slow
def test_at_the_time_limit_it_saves_and_comes_back(uninterrupted: Path, start: Start, tmp_path: Path) -> None:
    job = start(tmp_path)
    job.wait_for_step(20)
    job.reach_time_limit()
    assert "requeueing job" in job.log()
    job.wait()
    assert job.state == "COMPLETED", job.log()
    assert_same(job.run, uninterrupted)


@pytest.mark.slow
def test_a_partition_that_gives_time_before_it_preempts(uninterrupted: Path, start: Start, tmp_path: Path) -> None:
    """There Slurm takes a job that ends in its time of grace for one that has done its work: the script requeues it."""
    job = start(tmp_path, options=("--partition=graceful",))
    job.wait_for_step(20)
    job.preempt()
    assert "interrupted by SIGTERM after step" in job.log()
    job.wait()
    assert job.state == "COMPLETED", job.log()
    assert_same(job.run, uninterrupted)


@pytest.mark.slow
def test_the_time_limit_ten_kills_and_preemptions_leave_no_trace(start: Start, tmp_path: Path) -> None:
    """`pytest tests/slurm -m "slurm and slow"`: a quarter of an hour, or more on a busy machine."""
    longer = f"trainer.max_epochs={LONGER_EPOCHS}"
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = start(tmp_path / "whole", longer)
    whole.wait()
    assert whole.state == "COMPLETED", whole.log()
    job = start(tmp_path / "cut", longer)
    chance = random.Random(os.environ.get("FOUNDATION_TEST_SEED", "0"))
    # Among the first nine tenths of the steps, so that some are left after the last kill.
    last = LONGER_EPOCHS * STEPS_AN_EPOCH * 9 // 10
    moments = sorted(chance.sample(range(10, last), KILLS))
    for kill, step in enumerate(moments):
        if kill in AT_START:
            job.wait_for_start(seconds=chance.uniform(0.0, START_SECONDS), step=step)
        else:
            job.wait_for_step(step)
            time.sleep(chance.uniform(0.0, 0.2))
        job.kill_a_task()
        if kill == 3:
            job.wait_for_more(1)
            job.reach_time_limit()
        if kill in (4, 6):
            job.wait_for_more(1)
            job.preempt()
    job.wait()
    assert job.state == "COMPLETED", job.log()
    assert job.cluster.restarts(job.number) == KILLS + 3
    assert_same(job.run, whole.run)
