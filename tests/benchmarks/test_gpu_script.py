"""The GPU script runs without a GPU: our model through its worker, rivals left out with a reason, a table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

TINY = """
extends: backbones/xs
model:
  backbone: {channels: 4, pseudo_channels: 0, num_layers: 1, edge_degree: 1, degree: 1, product_degree: 1, cutoff: 3.0}
"""


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the script."""
    monkeypatch.syspath_prepend(str(repository))
    return lambda name: importlib.import_module(f"benchmarks.gpu.{name}")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A recipe of a very small model."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return str(path)


@pytest.mark.ci
def test_a_quick_run_on_the_cpu_writes_results_and_says_what_was_left_out(
    script: Callable[[str], ModuleType],
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "nothing"))
    results = tmp_path / "results"
    arguments = ["--device", "cpu", "--quick", "--sizes", tiny, "--results", str(results), "--steps", "ours", "rivals"]
    assert script("__main__").main([*arguments, "--precisions", "float32"]) == 0
    found = importlib.import_module("benchmarks.backbones.results").read_results(results, kind="gpu")
    lines = found["tiny-eager-float32"]
    assert [line["case"] for line in lines] == ["train1", "train2", "aspirin", "water24"]
    assert [line["atoms"] for line in lines] == [21, 42, 21, 24]
    assert all(line[figure] > 0 for line in lines for figure in ("median_ms", "structures_per_s", "peak_mbyte"))
    assert lines[2]["forces_difference"] == 0.0, "float32 is what the others are compared with"
    rivals = [line for row, one in found.items() if row != "tiny-eager-float32" for line in one]
    assert {line["program"] for line in rivals} == {"mace", "nequip"}
    assert all("left out" in line["failed"] and "benchmarks.backbones setup" in line["failed"] for line in rivals)
    assert "| tiny-eager-float32 | train2 |" in capsys.readouterr().out


def test_lower_precision_is_measured_where_there_is_any(script: Callable[[str], ModuleType], tiny: str) -> None:
    settings, worker = script("settings"), script("worker")
    inputs = settings.Inputs(batch_sizes=(1,), water_sides=(), repetitions=3, max_seconds=0.1)
    precision = torch.get_float32_matmul_precision()
    train, aspirin = worker.measure(settings.Group(tiny, "eager", "bf16", "cpu"), inputs)
    torch.set_float32_matmul_precision(precision)
    assert train["median_ms"] > 0
    assert 1e-5 < aspirin["forces_difference"] < 0.5, "bfloat16 has eight bits"
    (line,) = worker.measure(settings.Group(tiny, "eager", "tf32", "cpu"), inputs)
    assert line["failed"] == worker.TF32_NEEDS_CUDA


def test_rivals_get_the_same_structures_as_our_models(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    settings = script("settings")
    script("rivals").write_structures(tmp_path, settings.QUICK)
    request = importlib.import_module("benchmarks.backbones.workers.measure").Request
    common = {"structures": str(tmp_path), "threads": 1, "memory_limit_gib": 1.0, "repetitions": 3, "max_seconds": 1.0}
    inputs = request(case="train2", output="", **common).inputs()
    assert [len(batch) for batch in inputs] == [2] * 8
    assert inputs[0][0].get_forces().shape == (21, 3)
    (box,) = request(case="water24", output="", **common).inputs()
    assert box[0].pbc.all()


def test_the_timed_run_is_the_documented_command(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    training = script("training")
    command = training.training_command(device="cuda", minutes=10, overrides=("compile.enabled=true",), out=tmp_path)
    settings = ["trainer.max_time=00:00:10:00", "trainer.accelerator=gpu", "compile.enabled=true"]
    train = [sys.executable, "-m", "foundation.cli", "train", "tasks/rmd17_aspirin"]
    assert command == [*train, *settings, "--out", str(tmp_path)]


@pytest.mark.slow
def test_a_process_that_dies_is_a_result(script: Callable[[str], ModuleType]) -> None:
    settings = script("settings")
    (line,) = script("ours").measure_group(
        settings.Group("backbones/none", "eager", "float32", "cpu"), settings.Inputs((1,), (), 3, 0.1)
    )
    assert line["failed"].startswith("ended with 1: ")


def test_a_device_that_is_not_there_is_refused(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("__main__").main(["--device", f"cuda:{torch.cuda.device_count()}"]) == 2
    assert capsys.readouterr().err.startswith("error: device: got 'cuda:")
