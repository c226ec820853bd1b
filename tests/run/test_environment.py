"""A job that does not fit its recipe, and places that cannot be written, are refused before anything is computed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.errors import InputError
from foundation.run.environment import check_environment, check_writable

STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "foundation"}
ONE_TASK = {**STEP, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}
NTASKS = {**STEP, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
TWO_NODES = {**NTASKS, "SLURM_NTASKS_PER_NODE": "1"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "foundation", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "trainer", "message"),
    [
        (
            ONE_TASK,
            {"devices": 2},
            "1 task on 1 node, the recipe wants 2 devices on each of 1 node.*--ntasks-per-node=2",
        ),
        (TWO_NODES, {"devices": 2}, "2 tasks on 2 nodes, .*or trainer.num_nodes=2 trainer.devices=1"),
        (BATCH_SCRIPT, {"devices": 2}, "this process was not started by srun"),
        (NTASKS, {"devices": 1, "num_nodes": 2}, "with --ntasks, .*allowed: --nodes=2 --ntasks-per-node=1"),
        ({**STEP, "SLURM_NTASKS": "many"}, {"devices": 1}, "SLURM_NTASKS: got 'many'; allowed: a number"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"devices": 1}, "RANK=1, WORLD_SIZE=2, but neither torchrun nor srun"),
        ({"RANK": "1"}, {"devices": 1}, "environment: RANK=1, but neither"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {"devices": 2}, "the recipe wants 2 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {"devices": 2}, "mpirun started several processes"),
        (TORCHRUN, {"devices": 2}, "it started 4 processes, 2 on this node; .*trainer.num_nodes=2"),
    ],
)
def test_a_job_of_other_processes_than_the_recipe_wants_is_refused(
    variables: Mapping[str, str], trainer: Mapping[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_environment({"accelerator": "cpu", **trainer}, environment=variables)


@pytest.mark.parametrize(
    ("variables", "trainer"),
    [
        ({}, {"devices": 2}),
        (ONE_TASK, {"devices": 1}),
        (TWO_NODES, {"devices": 1, "num_nodes": 2}),
        (TORCHRUN, {"devices": 2, "num_nodes": 2}),
        ({**TORCHRUN, **ONE_TASK}, {"devices": 2, "num_nodes": 2}),  # torchrun in a job of one task a node
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, {"devices": 2}),  # started by Lightning itself
        ({**BATCH_SCRIPT, "SLURM_NTASKS": "1"}, {"devices": 1}),
        ({**BATCH_SCRIPT, "SLURM_JOB_NAME": "interactive"}, {"devices": 2}),
    ],
)
def test_a_job_that_fits_passes(variables: Mapping[str, str], trainer: Mapping[str, int]) -> None:
    check_environment({"accelerator": "cpu", **trainer}, environment=variables)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that even root cannot write."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a read-only file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_places_that_cannot_be_written_are_all_named(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDATION_CACHE", str(read_only / "cache"))
    with pytest.raises(InputError) as caught:
        check_writable(read_only / "run")
    assert caught.value.problems == (
        f"'{read_only}/run' cannot be written: Read-only file system; allowed: another --out",
        f"'{read_only}/cache' cannot be written: Read-only file system; allowed: FOUNDATION_CACHE=/another/place",
    )


def test_a_read_only_output_folder_is_refused_by_the_command(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "quickstart", "--out", str(read_only / "run")]) == 2
    assert "Read-only file system" in capsys.readouterr().err
