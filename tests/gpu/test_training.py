"""Runs on a CUDA device from the command line: NCCL, precisions, interruption, and what is done with the model then."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.gpu

COMMAND = [sys.executable, "-m", "foundation.cli"]
ON_DEVICE = ["trainer.accelerator=gpu", "trainer.enable_progress_bar=false", "report=false"]


def foundation(*words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; what it says."""
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_nccl_gives_what_one_process_gives(own_recipe: Path, tmp_path: Path) -> None:
    for name, settings in (
        ("alone", []),
        ("nccl", ["trainer.devices=1", "trainer.strategy=ddp_find_unused_parameters_true"]),
    ):
        foundation("train", own_recipe, "--out", tmp_path / name, *ON_DEVICE, *settings)
    assert losses(tmp_path / "nccl") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    with (tmp_path / "nccl" / "metrics.csv").open(encoding="utf-8") as file:
        memory = [float(row["train/memory_MB"]) for row in csv.DictReader(file) if row.get("train/memory_MB")]
    assert max(memory, default=0.0) > 1, "the device's memory is watched"


def test_low_precision_learns(own_recipe: Path, tmp_path: Path) -> None:
    foundation("train", own_recipe, "--out", tmp_path / "run", *ON_DEVICE, "trainer.precision=bf16-mixed")
    found = losses(tmp_path / "run")
    assert all(math.isfinite(one) for one in found)
    assert sum(found[-3:]) < sum(found[:3])


def test_told_to_stop_and_resumed_equals_uninterrupted(own_recipe: Path, tmp_path: Path) -> None:
    words = ["train", own_recipe, *ON_DEVICE, "trainer.deterministic=true", "trainer.max_epochs=40"]
    foundation(*words, "--out", tmp_path / "whole")
    out = tmp_path / "cut"
    process = subprocess.Popen(
        [*COMMAND, *map(str, words), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not ((out / "metrics.csv").exists() and len(losses(out)) > 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0, "it was told to stop before its end"
    foundation(*words, "--out", out, "--resume")
    assert len(losses(out)) == len(losses(tmp_path / "whole"))
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num()) for key in theirs)


def test_a_model_of_the_device_is_used_on_either(own_recipe: Path, own_file: Path, tmp_path: Path) -> None:
    foundation("train", own_recipe, "--out", tmp_path / "run", *ON_DEVICE)
    errors = {}
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.json"
        foundation("evaluate", tmp_path / "run", "mine", "--split", "test", "--device", device, "--json", file)
        errors[device] = json.loads(file.read_text(encoding="utf-8"))
    forces = {device: found["mine"]["forces"]["mae"] for device, found in errors.items()}
    assert forces["cuda"] == pytest.approx(forces["cpu"], rel=1e-4)
    foundation(
        "predict",
        tmp_path / "run",
        own_file,
        "--out",
        tmp_path / "out.json",
        "--device",
        "cuda",
        "--charge",
        0,
        "--spin",
        1,
    )


def test_what_does_not_fit_into_memory_is_said_before_the_first_step(own_recipe: Path, tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    words = ["train", own_recipe, "--out", tmp_path / "run", *ON_DEVICE]
    program = (
        "import sys, torch; from foundation.cli import main; "
        f"torch.cuda.set_per_process_memory_fraction({80e6 / total!r}); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words), "model.backbone.channels=128", "batch.max_structures=20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "does not fit into the memory of cuda:0" in done.stderr
