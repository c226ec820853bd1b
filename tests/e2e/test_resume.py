"""A run that is killed and resumed ends bit for bit where an uninterrupted one ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main
from foundation.training.module import FoundationModule

QUIET = ["trainer.enable_progress_bar=false", "report=false"]
FORK = multiprocessing.get_context("fork")
"""A process of its own to kill, without importing everything again."""

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def train_and_die(arguments: list[str]) -> None:
    """Train, and end as in a power cut when the eighth step begins."""

    def die(module: FoundationModule, *_: object) -> None:
        if module.trainer.global_step >= 7:
            os.kill(os.getpid(), signal.SIGKILL)

    FoundationModule.on_train_batch_start = die  # type: ignore[method-assign]
    main(arguments)


@pytest.fixture(scope="module")
def uninterrupted(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of five steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", str(own_recipe), "--out", str(out), *QUIET]) == 0
    return out


def logged(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "wall_s"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("minutes", [1e-6, 5.0], ids=["amid-an-epoch", "from-the-last-epoch"])
def test_killed_and_resumed_equals_uninterrupted(
    uninterrupted: Path, own_recipe: Path, tmp_path: Path, minutes: float
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(own_recipe), "--out", str(out), *QUIET, f"checkpoint_minutes={minutes}"]
    killed = FORK.Process(target=train_and_die, args=(arguments,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    state = torch.load(out / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    assert state["global_step"] == (7 if minutes < 1 else 5)

    assert main([*arguments, "--resume"]) == 0
    for name in ("model.safetensors", "raw.safetensors"):
        expected, found = load_file(uninterrupted / "model" / name), load_file(out / "model" / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected if not expected[key].isnan().any())
    for name in ("evaluation.json",):
        assert json.loads((out / name).read_text()) == json.loads((uninterrupted / name).read_text())
    assert logged(out) == logged(uninterrupted)
    assert main([*arguments, "--resume"]) == 0, "resuming what is finished does nothing"
