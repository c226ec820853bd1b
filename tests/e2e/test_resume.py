"""A run that is killed, or told to stop, and resumed ends bit for bit where an uninterrupted one ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path

import ase.io
import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main
from foundation.run.checkpoint_files import FORMAT_KEY
from foundation.run.directory import RunDirectory
from foundation.training.module import FoundationModule

QUIET = ["trainer.enable_progress_bar=false", "report=false"]
EVERY_STEP, NEVER = "checkpoint_minutes=1e-9", "checkpoint_minutes=5"
FORK = multiprocessing.get_context("fork")
"""A process of its own to kill, without importing everything again."""
MEASURED = ("wall_s", "train/structures_per_s", "train/loader_wait_percent", "train/memory_MB")

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def train_and_be_told(arguments: list[str], batch: int, number: signal.Signals) -> None:
    """Train, and get a signal when a batch begins: SIGKILL is as a power cut."""
    begun = []

    def tell(*_: object) -> None:
        begun.append(1)
        if len(begun) == batch + 1:
            os.kill(os.getpid(), number)

    FoundationModule.on_train_batch_start = tell  # type: ignore[method-assign]
    raise SystemExit(main(arguments))


def interrupt(arguments: list[str], *, batch: int, number: signal.Signals) -> None:
    process = FORK.Process(target=train_and_be_told, args=(arguments, batch, number))
    process.start()
    process.join()
    assert process.exitcode == (1 if number == signal.SIGTERM else -number)


def logged(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]


def assert_same(found: Path, expected: Path) -> None:
    for name in ("model.safetensors", "raw.safetensors"):
        ours, theirs = load_file(found / "model" / name), load_file(expected / "model" / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs if not theirs[key].isnan().any())
    assert json.loads((found / "evaluation.json").read_text()) == json.loads((expected / "evaluation.json").read_text())
    assert logged(found) == logged(expected)


@pytest.fixture(scope="module")
def uninterrupted(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of five steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", str(own_recipe), "--out", str(out), *QUIET]) == 0
    return out


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
    number: signal.Signals,
    rhythm: str,
    goes_on_from: int,
) -> None:
    out, note = tmp_path / "run", tmp_path / "note"
    monkeypatch.setenv("FOUNDATION_REQUEUE_FILE", str(note))
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, rhythm]
    interrupt(arguments, batch=7, number=number)
    assert note.exists() == (number == signal.SIGTERM), "who is told to stop tells the batch script"
    assert RunDirectory(out).checkpoints.by_age()[0][0] == goes_on_from

    assert main([*arguments, "--resume"]) == 0
    assert_same(out, uninterrupted)
    assert main([*arguments, "--resume"]) == 0, "resuming what is finished does nothing"


@pytest.mark.parametrize("rhythm", ["trainer.val_check_interval=2", "trainer.accumulate_grad_batches=2"])
def test_it_does_whatever_the_rhythm_of_validations_and_steps(own_recipe: Path, tmp_path: Path, rhythm: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "cut"
    arguments = ["train", str(own_recipe), *QUIET, NEVER, rhythm, "trainer.max_epochs=2"]
    assert main([*arguments, "--out", str(whole)]) == 0
    interrupt([*arguments, "--out", str(out)], batch=2, number=signal.SIGTERM)
    interrupt([*arguments, "--out", str(out), "--resume"], batch=3, number=signal.SIGTERM)
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert_same(out, whole)


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, EVERY_STEP]
    interrupt(arguments, batch=7, number=signal.SIGKILL)
    (_, newest), (_, before) = RunDirectory(out).checkpoints.by_age()
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert main([*arguments, "--resume"]) == 0
    said = capfd.readouterr().err
    assert f"'{newest}': damaged" in said
    assert f"going on from {before}" in said
    assert_same(out, uninterrupted)


def test_a_checkpoint_of_a_newer_version_is_refused(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET]
    interrupt(arguments, batch=2, number=signal.SIGTERM)
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
