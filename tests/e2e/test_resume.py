"""A run that is killed, or told to stop, and resumed ends bit for bit where an uninterrupted one ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import ase.io
import pytest
import torch

from foundation.cli import main
from foundation.run.checkpoint_files import FORMAT_KEY
from foundation.run.directory import RunDirectory
from tests.same_run import assert_same

from .interrupting import EVERY_STEP, NEVER, QUIET, interrupt

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.mark.parametrize(
    ("number", "rhythm", "goes_on_from"),
    [(signal.SIGKILL, EVERY_STEP, 7), (signal.SIGKILL, NEVER, 5), (signal.SIGTERM, NEVER, 8)],
    ids=["killed-amid-an-epoch", "killed-goes-on-from-the-last-epoch", "told-to-stop"],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    uninterrupted: Path,
    own_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    rhythm: str,
    goes_on_from: int,
) -> None:
    out, note = tmp_path / "run", tmp_path / "note"
    monkeypatch.setenv("FOUNDATION_REQUEUE_FILE", str(note))
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, rhythm]
    interrupt(arguments, after=7, number=number)
    assert note.exists() == (number == signal.SIGTERM), "who is told to stop tells the batch script"
    step, newest = RunDirectory(out).checkpoints.by_age()[0]
    assert step == goes_on_from
    os.utime(newest, (0, 0))  # as where the clocks of two nodes differ

    assert main([*arguments, "--resume"]) == 0
    assert f"going on from {newest}" in capfd.readouterr().err
    assert_same(out, uninterrupted)
    assert main([*arguments, "--resume"]) == 0, "resuming what is finished does nothing"


@pytest.mark.parametrize(
    ("at", "after", "goes_on_from"),
    [
        pytest.param("start", 0, None, marks=pytest.mark.slow),  # before the first step: there is nothing to save
        ("batch", 14, 15),  # in the last step of all
        pytest.param("save", 1, 6, marks=pytest.mark.slow),  # while the checkpoint of the first epoch is written
        ("validation", 1, 10),  # while the second epoch is validated
        ("evaluation", 0, 15),  # when training is over and its errors are measured
    ],
)
def test_a_signal_may_come_at_any_moment(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path, at: str, after: int, goes_on_from: int | None
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, NEVER]
    interrupt(arguments, number=signal.SIGUSR1, at=at, after=after)
    saved = [step for step, _ in RunDirectory(out).checkpoints.by_age()[:1]]
    assert saved == ([] if goes_on_from is None else [goes_on_from])
    assert main([*arguments, "--resume"]) == 0
    assert_same(out, uninterrupted)


@pytest.mark.parametrize("rhythm", ["trainer.val_check_interval=2", "trainer.accumulate_grad_batches=2"])
def test_it_does_whatever_the_rhythm_of_validations_and_steps(own_recipe: Path, tmp_path: Path, rhythm: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "cut"
    arguments = ["train", str(own_recipe), *QUIET, NEVER, rhythm, "trainer.max_epochs=2"]
    assert main([*arguments, "--out", str(whole)]) == 0
    interrupt([*arguments, "--out", str(out)], after=2, number=signal.SIGTERM)
    interrupt([*arguments, "--out", str(out), "--resume"], after=3, number=signal.SIGTERM)
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert_same(out, whole)


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, EVERY_STEP]
    interrupt(arguments, after=7, number=signal.SIGKILL)
    (_, newest), (_, before) = RunDirectory(out).checkpoints.by_age()
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert main([*arguments, "--resume"]) == 0
    said = capfd.readouterr().err
    assert f"'{newest}': damaged" in said
    assert f"going on from {before}" in said
    assert_same(out, uninterrupted)


def test_a_run_directory_may_be_moved(uninterrupted: Path, own_recipe: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    words = ["train", str(own_recipe), *QUIET, NEVER]
    interrupt([*words, "--out", str(before)], number=signal.SIGTERM, after=12)
    best = torch.load(before / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert best == 10, "there is something to forget"
    before.rename(after)
    assert main([*words, "--out", str(after), "--resume"]) == 0  # a warning of Lightning's would be an error here
    assert_same(after, uninterrupted)


def test_a_checkpoint_of_a_newer_version_is_refused(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET]
    interrupt(arguments, after=2, number=signal.SIGTERM)
    path = RunDirectory(out).checkpoints.by_age()[0][1]
    torch.save({**torch.load(path, weights_only=True), FORMAT_KEY: 99}, path)
    assert main([*arguments, "--resume"]) == 2
    assert "format 99 of a newer version of foundation" in capfd.readouterr().err


def test_a_loss_that_is_not_finite_leaves_the_structures_of_that_step(
    own_recipe: Path, own_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    overflowing = "optimizer={kind: adamw, learning_rate: 1e30}"
    assert main(["train", str(own_recipe), "--out", str(out), *QUIET, overflowing, "schedule.warmup_steps=0"]) == 1
    (found,) = out.glob("wrong_step_*_rank_0.extxyz")
    assert str(found) in capfd.readouterr().err
    frames, given = ase.io.read(found, ":"), ase.io.read(own_file, ":")
    assert len(frames) == 4
    for frame in frames:
        assert frame.info["dataset"] == "mine"
        assert any(len(frame) == len(atoms) and abs(frame.positions - atoms.positions).max() < 1e-6 for atoms in given)
