"""The stated cost of a model: right counts of operations and bytes, stated inputs, a table, one message for faults."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.cost import aspirin_molecules, count_gflop, median_ms, peak_mbyte, water_box

TINY = """
extends: backbones/xs
model:
  # Radial functions at knots cost the same for one molecule as for eight: a small network for them.
  backbone:
    cutoff: 3
    channels: 4
    pseudo_channels: 0
    num_layers: 1
    edge_degree: 1
    degree: 1
    product_degree: 1
    radial_width: 8
"""
CPU = torch.device("cpu")


def test_the_stated_inputs_are_aspirin_and_liquid_water() -> None:
    molecules = aspirin_molecules(2)
    assert [molecule.get_chemical_formula() for molecule in molecules] == ["C9H8O4"] * 2
    assert np.abs(molecules[0].positions - molecules[1].positions).max() < 0.5
    assert not np.allclose(molecules[0].positions, molecules[1].positions)
    box = water_box(4)
    assert len(box) == 192
    density = box.get_masses().sum() * 1.66053907 / box.get_volume()  # g/cm³, from amu and Å³
    assert density == pytest.approx(0.997, abs=0.002)
    distances = box.get_all_distances(mic=True)
    assert distances[np.triu_indices(192, 1)].min() > 0.95, "no shorter distance than the O–H bond"


def test_operations_of_a_product_and_of_its_derivatives_are_counted() -> None:
    left, right = torch.rand(30, 50, requires_grad=True), torch.rand(50, 70, requires_grad=True)
    assert count_gflop(lambda: left @ right) == pytest.approx(2 * 30 * 50 * 70 / 1e9)
    assert count_gflop(lambda: (left @ right).sum().backward()) == pytest.approx(3 * 2 * 30 * 50 * 70 / 1e9)


def test_the_peak_counts_what_is_alive_at_one_time() -> None:
    held = torch.ones(500_000)  # 2 MB

    def one_after_the_other() -> None:
        first = held + 1  # 2 MB more
        del first
        second = torch.zeros(1_000_000)  # 4 MB
        second.add_(1)  # in place: nothing more
        held.mul_(1)

    assert peak_mbyte(one_after_the_other, device=CPU, held=[held]) == pytest.approx(6.0)
    assert peak_mbyte(lambda: [held + 1, held + 2], device=CPU, held=[held]) == pytest.approx(6.0)


def test_slow_work_is_repeated_less_often() -> None:
    calls: list[int] = []
    milliseconds, repetitions = median_ms(lambda: calls.append(1), device=CPU, repetitions=50, max_seconds=0.0)
    assert repetitions == 3
    assert len(calls) == 5, "with two to warm up"
    assert milliseconds < 1000


def test_costs_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, file = tmp_path / "tiny.yaml", tmp_path / "cost.json"
    recipe.write_text(TINY, encoding="utf-8")
    assert main(["cost", str(recipe), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["machine"]["device"] == "cpu"
    (size,) = document["sizes"]
    assert f"{size['parameters']:,}" in printed
    assert {part: size[part]["atoms"] for part in ("molecule", "step", "box")} == {
        "molecule": 21,
        "step": 168,
        "box": 192,
    }
    for part in ("molecule", "step", "box"):
        assert all(size[part][figure] > 0 for figure in ("gflop", "milliseconds", "repetitions"))
    # Forces cost about twice the energy, gradients of weights about twice that again; the molecules are alike.
    assert 1.5 < size["step"]["gflop"] / (8 * size["molecule"]["gflop"]) < 4
    weights_and_adam_mb = 3 * 4 * size["parameters"] / 1e6
    assert size["step_peak_mbyte"] > weights_and_adam_mb
    assert math.isfinite(size["step_peak_mbyte"])


def test_faults_are_told_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "backbones/sx", "base"]) == 2
    message = capsys.readouterr().err
    assert "no file 'backbones/sx'; nearest shipped: 'backbones/" in message
    assert "recipe 'base': states no model.backbone" in message
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {backbone: {kind: equivariant, chanels: 3}}", encoding="utf-8")
    assert main(["cost", str(wrong)]) == 2
    assert "nearest: 'channels'" in capsys.readouterr().err
    assert main(["cost", "--json", str(tmp_path / "nowhere" / "cost.json")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["cost", "--device", "mps"]) == 2
    assert "device: got 'mps'; allowed: cpu, cuda" in capsys.readouterr().err
    assert main(["cost", "--device", f"cuda:{torch.cuda.device_count()}"]) == 2
    captured = capsys.readouterr()
    assert "allowed: cpu" in captured.err
    assert "measuring" not in captured.err
