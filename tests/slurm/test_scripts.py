"""On a real Slurm: submission, arrays, evaluation, staging, and jobs that cannot work are refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.cli import main

from .cluster import Cluster, wait_until

pytestmark = pytest.mark.slurm

SHORT = "trainer.max_epochs=1"


@pytest.fixture
def finished(cluster: Cluster) -> Callable[[str], str]:
    """Waits for a job and gives its state."""

    def wait(job: str) -> str:
        over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
        wait_until(lambda: cluster.state(job) in over, what=f"the end of job {job}")
        return cluster.state(job)

    return wait


def test_submit_runs_the_job_that_it_prints(
    cluster: Cluster,
    finished: Callable[[str], str],
    pretraining: Path,
    job_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**cluster.environment, **job_environment, "FOUNDATION_STAGE": str(tmp_path / "local")}.items():
        monkeypatch.setenv(name, value)
    job = ["slurm", "submit", str(pretraining), "--nodes", "2", "--gpus", "0", "--time", "10", "--out", "run", SHORT]
    assert main([*job, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "sbatch --nodes=2 --ntasks-per-node=1 --cpus-per-task=8 --time=10" in printed
    assert cluster.run("squeue", "-h") == ""
    assert main(job) == 0
    said = capsys.readouterr().out
    assert printed in said
    number = said.split()[-1]
    assert finished(number) == "COMPLETED", (tmp_path / f"slurm-{number}.out").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["training"]["stopped_by"] is None
    assert list((tmp_path / "local").iterdir()) == [], "what was copied to the nodes' disks is removed"
    assert main([*job, "trainer.max_epoch=1"]) == 2, "a recipe that is wrong is not submitted"


def test_an_array_trains_a_line_each_and_a_model_is_evaluated(
    cluster: Cluster,
    finished: Callable[[str], str],
    pretraining: Path,
    job_environment: dict[str, str],
    submit_folder: Path,
) -> None:
    (submit_folder / "settings").write_text("seed=1\nseed=2 optimizer.learning_rate=0.01\n", encoding="utf-8")
    given = ["slurm/sweep.sbatch", "settings", str(pretraining), "--out", "sweep", SHORT]
    job = cluster.submit("--array=1-2", *given, folder=submit_folder, **job_environment)
    for task in (1, 2):
        log = submit_folder / f"slurm-{job}_{task}.out"
        assert finished(f"{job}_{task}") == "COMPLETED", log.read_text()
        assert f"seed: {task}" in (submit_folder / "sweep" / str(task) / "recipe.yaml").read_text()
    given = ["slurm/evaluate.sbatch", "sweep/1", "molecules", "--split", "val"]
    job = cluster.submit(*given, folder=submit_folder, **job_environment)
    finished(job)
    assert "none in common" in (submit_folder / f"slurm-{job}.out").read_text(), "pretraining data have no labels"


def test_jobs_that_cannot_work_are_refused(
    cluster: Cluster,
    finished: Callable[[str], str],
    pretraining: Path,
    job_environment: dict[str, str],
    submit_folder: Path,
) -> None:
    wrap = f"srun $FOUNDATION_ENV/bin/foundation train {pretraining} --out other trainer.devices=2"
    one_task = cluster.submit(f"--wrap={wrap}", "--output=one", folder=submit_folder, **job_environment)
    assert finished(one_task) == "FAILED"
    assert cluster.exit_code(one_task) == 2
    assert "1 task on 1 node, the recipe wants 2 devices" in (submit_folder / "one").read_text()
    wrap = wrap.replace("devices=2", "devices=1")
    two_tasks = cluster.submit(
        "--ntasks-per-node=2", f"--wrap={wrap}", "--output=two", folder=submit_folder, **job_environment
    )
    assert finished(two_tasks) == "FAILED"
    assert "2 tasks on 1 node, the recipe wants 1 device on each of 1 node" in (submit_folder / "two").read_text()
    assert not (submit_folder / "other").exists()
    scratch = {"FOUNDATION_STAGE": "/proc/nowhere"}
    given = ["slurm/train.sbatch", str(pretraining), "--out", "other"]
    no_scratch = cluster.submit(*given, folder=submit_folder, **job_environment, **scratch)
    assert finished(no_scratch) == "FAILED"
    assert cluster.exit_code(no_scratch) == 2
    assert "cannot be copied to '/proc/nowhere'" in (submit_folder / f"slurm-{no_scratch}.out").read_text()
    assert not (submit_folder / "other").exists()
    train = ["slurm/train.sbatch", str(pretraining), "--out"]
    first = submit_folder / "run"
    running = cluster.submit(*train, str(first), folder=submit_folder, **job_environment)
    wait_until(lambda: (first / "metrics.csv").exists(), what="the first job")
    second = cluster.submit(*train, str(first), "--resume", folder=submit_folder, **job_environment)
    assert finished(second) == "FAILED"
    log = (submit_folder / f"slurm-{second}.out").read_text()
    assert "another program trains in it (process" in log
    assert f"job {running}); allowed: waiting" in log
    cluster.run("scancel", running)
