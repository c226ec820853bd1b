"""Whether two runs are the same to the last bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

MEASURED = ("wall_s", "train/structures_per_s", "train/loader_wait_percent", "train/memory_MB")
"""What a clock or the machine decides."""


def logged(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what is measured."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]


def assert_same(found: Path, expected: Path) -> None:
    """Weights, averages, errors and every logged step are equal to the last bit."""
    for name in ("model.safetensors", "raw.safetensors"):
        ours, theirs = load_file(found / "model" / name), load_file(expected / "model" / name)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num())]
        assert different == []
    assert json.loads((found / "evaluation.json").read_text()) == json.loads((expected / "evaluation.json").read_text())
    steps = [int(row["step"]) for row in logged(found) if row["train/loss"]]
    assert steps == list(range(len(steps))), "every step once, none left out"
    assert logged(found) == logged(expected)
