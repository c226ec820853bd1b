"""The submission script refuses what would fail only after hours in the queue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

# What Slurm sets in a job of one node and one task.
JOB = {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS_PER_NODE": "1"}


def submit(repository: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = repository / "slurm" / "train.sbatch"
    environment = os.environ | JOB | {"SLURM_SUBMIT_DIR": str(folder)}
    environment.pop("FOUNDATION_ENV", None)
    return subprocess.run(
        ["bash", str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: sbatch slurm/train.sbatch RECIPE --out RUN"),
        (("quickstart",), "--out RUN is missing"),
        (("quickstart", "--out", "run"), "no foundation in '.venv'"),
    ],
)
def test_a_job_that_cannot_run_is_refused_with_exit_code_2(
    repository: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = submit(repository, *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_job_is_requeued_and_warned_before_its_time_is_up(repository: Path) -> None:
    lines = (repository / "slurm" / "train.sbatch").read_text(encoding="utf-8").splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--open-mode=append", "--signal=SIGUSR1@180"} <= set(options)
    # Slurm reads its options only up to the first command.
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH "))
