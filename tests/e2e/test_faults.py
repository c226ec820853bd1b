"""Faults of the machine under a real run: one clear message, what was saved stays, and the run goes on unharmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.run.directory import RunDirectory
from tests.same_run import assert_same

from .interrupting import EVERY_STEP, NEVER, QUIET, arrange_and_train, interrupt

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
WORKERS = "num_workers=2"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def children() -> list[int]:
    """Processes that this one has started."""
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_a_disk_that_is_full_when_a_checkpoint_is_written(
    uninterrupted: Path, own_recipe: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, filler = small_disk / "run", small_disk / "filler"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, EVERY_STEP]

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    arrange_and_train(arguments, fill, at="save", after=8, code=1)
    said = capfd.readouterr().err
    assert "the disk is full; free some space or write elsewhere" in said
    assert "Traceback" not in said
    kept = RunDirectory(out).checkpoints.by_age()
    assert len(kept) == 2
    assert RunDirectory(out).checkpoints.newest(says=False) == kept[0][1]
    filler.unlink()
    assert main([*arguments, "--resume"]) == 0
    assert_same(out, uninterrupted)


def test_processes_that_load_data_outlive_the_signal_that_stops_the_run(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, NEVER, WORKERS]
    interrupt(arguments, number=signal.SIGTERM, after=7)
    assert RunDirectory(out).checkpoints.by_age()[0][0] == 8, "the step was done and saved"
    assert main([*arguments, "--resume"]) == 0
    assert_same(out, uninterrupted)


def test_a_process_that_loads_data_and_is_killed_ends_the_run_with_its_reason(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, EVERY_STEP, WORKERS]

    def kill_workers() -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)

    arrange_and_train(arguments, kill_workers, at="batch", after=7, code=1)
    said = capfd.readouterr().err
    assert "killed by signal: Killed" in said or "exited unexpectedly" in said
    assert "one of the processes that load data (num_workers) was ended from outside after step" in said
    assert main([*arguments, "--resume"]) == 0
    assert_same(out, uninterrupted)


@pytest.mark.slow
def test_a_second_program_in_the_run_directory_is_refused(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, NEVER, "trainer.max_epochs=1"]
    refused: list[int] = []

    def start_another() -> None:
        command = [sys.executable, "-m", "foundation.cli", *arguments, "--resume"]
        refused.append(subprocess.run(command, check=False).returncode)
        assert refused == [2]

    arrange_and_train(arguments, start_another, at="batch", after=2, code=0)
    assert "another program trains in it (process" in capfd.readouterr().err
    assert (out / "summary.json").exists(), "the first one is not disturbed"


def test_a_run_directory_that_another_program_made_meanwhile_is_refused(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both are started before there is a directory that one of them could lock."""
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, NEVER, "trainer.max_epochs=1"]
    arrange_and_train(arguments, lambda: main([*arguments, "seed=9"]), at="plan", after=0, code=2)
    assert f"run directory '{out}' exists" in capfd.readouterr().err
    assert "seed: 9" in (out / "recipe.yaml").read_text(), "the other one's run is whole"
    assert (out / "summary.json").exists()


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_a_damaged_shard_is_named_before_anything_is_computed(
    own_recipe: Path,
    tmp_path: Path,
    harm: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    arguments = ["train", str(own_recipe), "--out", str(tmp_path / "run"), *QUIET]
    assert main([*arguments, "--check"]) == 0
    (shard,) = (tmp_path / "cache").rglob("structures-*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content if harm == "flipped" else content[:-100])
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert shard.name in said
    assert "corrupt store" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
