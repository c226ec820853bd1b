"""One program at a time in a run directory, and none is kept out by one that was killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from foundation.errors import InputError
from foundation.run import lock
from foundation.run.lock import RunLock

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def hold(run: Path, job: str, connection: Connection) -> None:
    os.environ["SLURM_JOB_ID"] = job
    with RunLock(run):
        connection.send("held")
        connection.recv()


@pytest.fixture
def holder(tmp_path: Path):
    """A process of job 7 that trains in the directory."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path, "7", theirs))
    process.start()
    assert ours.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_a_second_program_is_refused_and_told_by_whom(holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    with pytest.raises(InputError, match=rf"another program trains in it \(process {holder.pid}, node .*, job 7\)"):
        RunLock(tmp_path).__enter__()


def test_a_killed_program_keeps_nobody_out(holder, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_requeued_job_waits_for_its_forerunner(holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(lock.time, "sleep", lambda _: holder.kill())
    with RunLock(tmp_path):
        pass
