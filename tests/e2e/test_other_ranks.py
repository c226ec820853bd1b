"""A run that goes on with another number of ranks sees the same structures in the same steps, or is refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main
from foundation.run.directory import RunDirectory
from tests.same_run import logged

from .interrupting import NEVER, QUIET, train_on_ranks

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SETTINGS = [*QUIET, NEVER, "trainer.accelerator=cpu", "trainer.precision=64-true", "trainer.max_epochs=2"]
GLOBAL = "batch.global_structures=4"
LOSSES = ("train/loss", "train/energy_loss", "train/forces_loss", "val/loss")


@pytest.fixture(scope="module")
def on_one_rank(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of five steps, never interrupted."""
    out = tmp_path_factory.mktemp("one") / "run"
    train_on_ranks(["train", str(own_recipe), "--out", str(out), *SETTINGS, GLOBAL], ranks=1)
    return out


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_amid_an_epoch_it_goes_on_with_the_same_structures(
    on_one_rank: Path, own_recipe: Path, tmp_path: Path, before: int, after: int
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *SETTINGS, GLOBAL]
    train_on_ranks(arguments, ranks=before, told=before - 1, after=2, code=1)
    # One rank stops after the step; several agree in the one after it.
    assert RunDirectory(out).checkpoints.by_age()[0][0] == 2 + before
    train_on_ranks([*arguments, "--resume"], ranks=after)
    found, expected = logged(out), logged(on_one_rank)
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [str(step) for step in range(10)]
    for ours, theirs in zip(found, expected, strict=True):
        for name in LOSSES:
            assert bool(ours[name]) == bool(theirs[name])
            if theirs[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-6)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (out, on_one_rank))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_without_a_stated_global_batch_it_is_refused(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(own_recipe), "--out", str(tmp_path / "run"), *SETTINGS]
    train_on_ranks(arguments, ranks=1, told=0, after=1, code=1)
    assert main([*arguments, "--resume", "trainer.devices=2"]) == 2
    said = capfd.readouterr().err
    assert "--resume: trainer.devices: this run has 1, the recipe says 2" in said
    assert "allowed: that in runs whose recipe has batch.global_structures" in said


@pytest.mark.slow
def test_accumulated_batches_stand_in_for_ranks_from_the_end_of_an_epoch_only(
    own_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(own_recipe), "--out", str(tmp_path / "run"), *SETTINGS, GLOBAL]
    train_on_ranks(arguments, ranks=1, told=0, after=1, code=1)
    halves = [*arguments, "--resume", "trainer.accumulate_grad_batches=2"]
    assert main(halves) == 2
    assert "cannot continue at step 2 of epoch 0: the batches are not the same any more" in capfd.readouterr().err
    train_on_ranks([*arguments, "--resume"], ranks=1, told=0, after=2, code=1)  # the last step of the epoch
    assert main(halves) == 0
    rows = [row["step"] for row in logged(tmp_path / "run") if row["train/loss"]]
    assert rows == [str(step) for step in range(10)], "as many optimizer steps as before"


@pytest.fixture
def other_view(tmp_path: Path) -> Iterator[Path]:
    """The folder `rank0` under another name, as another node sees it that still knows of one checkpoint only."""
    ours, theirs, seen = tmp_path / "rank0", tmp_path / "rank1", tmp_path / "seen"
    for folder in (ours / "checkpoints", theirs, seen):
        folder.mkdir(parents=True)
    mounts = (["--bind", str(ours), str(theirs)], ["--bind", str(seen), str(theirs / "checkpoints")])
    done: list[str] = []
    try:
        for words in mounts:
            if subprocess.run(["mount", *words], capture_output=True, check=False).returncode != 0:
                pytest.skip("mounting is not allowed here")
            done.append(words[-1])
            subprocess.run(["mount", "--make-private", words[-1]], check=True)
        yield seen
    finally:
        for place in reversed(done):
            subprocess.run(["umount", place], check=True)


def test_ranks_that_see_different_checkpoints_are_refused(
    own_recipe: Path, tmp_path: Path, other_view: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "whole"
    train_on_ranks(["train", str(own_recipe), "--out", str(run), *SETTINGS, GLOBAL], ranks=1)
    older, newer = sorted(path for _, path in RunDirectory(run).checkpoints.by_age())
    (run / "summary.json").unlink()
    shutil.copytree(run, tmp_path / "rank0", dirs_exist_ok=True)
    shutil.copy(older, other_view)
    arguments = ["train", str(own_recipe), "--out", str(tmp_path / "rank{rank}"), "--resume", *SETTINGS, GLOBAL]
    train_on_ranks(arguments, ranks=2, code=2)
    said = capfd.readouterr().err
    assert f"the newest whole checkpoint here is '{older.name}', the first process sees '{newer.name}'" in said
