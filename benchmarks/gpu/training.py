"""A real run against the clock: aspirin, 950 labels, `foundation train`, evaluated on the official test frames."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.backbones.data import data_root
from benchmarks.backbones.programs.base import REPOSITORY
from benchmarks.gpu.ours import environment, last_error
from foundation.errors import InputError

__all__ = ["training_command", "training_run"]

RECIPE = "tasks/rmd17_aspirin"
QUICK = ("trainer.max_epochs=1", "data.aspirin.split={train: 10, val: 5, test: 5}", "schedule.warmup_steps=0")
"""Overrides of a run that only shows that the step works."""


def training_command(*, device: str, minutes: int, overrides: Sequence[str], out: Path) -> list[str]:
    """The command, as one would type it."""
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    limit = f"trainer.max_time=00:{minutes // 60:02d}:{minutes % 60:02d}:00"
    settings = [limit, f"trainer.accelerator={accelerator}", *overrides]
    return [sys.executable, "-m", "foundation.cli", "train", RECIPE, *settings, "--out", str(out)]


def training_run(*, device: str, minutes: int, overrides: Sequence[str], out: Path) -> dict[str, Any]:
    """Train and read the errors.

    Args:
        device: cpu or cuda.
        minutes: After these training stops, wherever it is.
        overrides: `key=value` of the recipe.
        out: Run directory; the log lies beside it.

    Returns:
        One line of results: command, wall seconds with start-up and evaluation, errors on the test frames; or why not.
    """
    line: dict[str, Any] = {"case": f"train {minutes} min", "program": "foundation", "recipe": RECIPE, "device": device}
    try:
        data = data_root()
    except InputError as error:
        return {**line, "failed": f"left out: {error}"}
    command = training_command(device=device, minutes=minutes, overrides=overrides, out=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_suffix(".log")
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**environment(), "FOUNDATION_DATA": str(data)},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    line |= {"command": " ".join(["foundation", *command[3:-2]]), "wall_s": time.perf_counter() - begun}
    if done.returncode != 0:
        return {**line, "failed": last_error(log.read_text(encoding="utf-8"), done.returncode)}
    errors = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["test"]["aspirin"]
    return {
        **line,
        "forces_mae_meV_per_A": 1e3 * errors["forces"]["mae"],
        "energy_mae_meV": 1e3 * errors["energy"]["mae"],
        "test_frames": errors["energy"]["count"],
    }
