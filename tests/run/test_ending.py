"""A run that time cuts short says so, keeps its newest weights if they are best, and goes on when given more time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from foundation.run.directory import RunDirectory
from foundation.run.ranks import is_first_process, trainer_arguments
from foundation.run.training import train

SECONDS_A_STEP = 1.0


@pytest.fixture
def clock_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's timer reads a clock on which each step takes a second."""
    steps: list[int] = [0]
    check = Timer._check_time_remaining

    def look(timer: Timer, trainer: Trainer) -> None:
        steps[0] = trainer.global_step
        check(timer, trainer)

    monkeypatch.setattr(Timer, "_check_time_remaining", look)
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: steps[0] * SECONDS_A_STEP)


@pytest.mark.usefixtures("clock_of_steps")
def test_a_run_that_time_cuts_short(
    write_recipe: Callable[..., Path],
    structure: Callable[..., Atoms],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = [structure("OH", seed=seed, energy=-1.0 - seed / 9, forces=np.zeros((2, 3))) for seed in range(5)]
    recipe = write_recipe(train=frames[:4], val=frames[4:])
    run = tmp_path / "run"

    def go(limit: str, *, resume: bool) -> dict[str, Any]:
        overrides = ("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=3", f"trainer.max_time='{limit}'")
        train(recipe, overrides=overrides, out=run, resume=resume)
        return json.loads((run / "summary.json").read_text(encoding="utf-8"))

    summary = go("00:00:00:03", resume=False)
    assert summary["training"] == {"steps": 3, "planned_steps": 6, "stopped_by": "max_time"}
    assert summary["model"]["weights"].startswith("lowest validation loss, after 3 steps")
    assert "warning: stopped by max_time after 3 of 6 steps" in capsys.readouterr().err
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["val/loss"]] == ["2"]
    go("00:00:00:03", resume=True)
    assert "nothing to do" in capsys.readouterr().err
    summary = go("00:00:01:00", resume=True)
    assert summary["training"] == {"steps": 6, "planned_steps": 6, "stopped_by": None}
    assert "warning: stopped" not in capsys.readouterr().err
    go("00:00:02:00", resume=True)
    assert "nothing to do" in capsys.readouterr().err


def test_json_that_is_not_finite_is_written_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunDirectory(tmp_path).write_json("evaluation.json", {"val": {"mae": float("nan"), "list": [1.0, float("inf")]}})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"val": {"mae": None, "list": [1.0, None]}}
    assert "evaluation.json: not finite, written as null: val.mae, val.list.1" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_PROCID"])
def test_only_the_first_process_writes(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    monkeypatch.setenv(variable, "0")
    assert is_first_process()
    monkeypatch.setenv(variable, "1")
    assert not is_first_process()


def test_several_ranks_get_a_strategy_that_fits() -> None:
    assert "strategy" not in trainer_arguments({"devices": 1, "accelerator": "cpu"})
    assert trainer_arguments({"devices": 2})["strategy"] == "ddp_find_unused_parameters_true"
    assert trainer_arguments({"devices": 1, "num_nodes": 2})["strategy"] == "ddp_find_unused_parameters_true"
    assert trainer_arguments({"devices": [0, 1], "strategy": "fsdp"})["strategy"] == "fsdp"
