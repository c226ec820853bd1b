"""Weights & Biases: real runs of the real package, offline, that a resumed training goes on with."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from foundation.cli import main
from foundation.run.wandb_log import ID_FILE
from foundation.training.module import FoundationModule

QUIET = ["trainer.enable_progress_bar=false", "report=false"]
BLOCK, WHOLE, FIRST = 1 << 15, 1, 2


@pytest.fixture
def tiny_recipe(write_recipe: Callable[..., Path], structure: Callable[..., Atoms]) -> Path:
    """Three steps an epoch."""
    frames = [structure("CHO", seed=seed, energy=float(seed)) for seed in range(8)]
    return write_recipe(train=frames[:6], val=frames[6:])


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def records(file: Path) -> list[bytes]:
    """What a run's file holds: LevelDB's log format behind seven bytes of its own."""
    content, place, found = file.read_bytes(), 7, []
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        part = content[place + 7 : place + 7 + length]
        if kind in (WHOLE, FIRST):
            found.append(part)
        else:
            found[-1] += part
        place += 7 + length
    return found


def history(file: Path) -> list[dict[str, float]]:
    """The rows that were logged."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for part in records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(part)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items()})
    return rows


def test_a_resumed_run_goes_on_with_its_id_and_steps(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(tiny_recipe), "--out", str(out), "wandb.mode=offline", *QUIET, "trainer.max_epochs=2"]
    begun = []

    def be_told_to_stop(*_: object) -> None:
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FoundationModule, "on_train_batch_start", be_told_to_stop)
        assert main(arguments) == 1
    [first] = (out / "wandb").glob("offline-run-*/*.wandb")
    assert main([*arguments, "--resume"]) == 0
    [second] = set((out / "wandb").glob("offline-run-*/*.wandb")) - {first}
    identity = (out / ID_FILE).read_text().strip()
    assert first.name == second.name == f"run-{identity}.wandb"
    before, after = history(first), history(second)
    steps = [[row["optimizer_step"] for row in rows if "train/loss" in row] for rows in (before, after)]
    assert steps[0]
    assert [*steps[0], *steps[1]] == list(range(6))
    assert {"train/energy_loss", "train/gradient_norm", "train/memory_MB"} <= after[0].keys()


def test_without_a_login_the_run_ends_before_it_begins(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe), "--out", str(out), "wandb.project=mine", *QUIET]) == 2
    [message] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: wandb: mode 'online' of project 'mine': ")
    assert "allowed: mode=offline" in message
    assert not out.exists()


def test_without_the_package_the_recipe_is_refused(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe), "--out", str(out), "wandb.mode=offline", *QUIET]) == 2
    assert capsys.readouterr().err.startswith("error: wandb: the package 'wandb' cannot be imported")
    assert not out.exists()
