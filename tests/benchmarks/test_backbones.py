"""The bake-off harness: its rows are valid, our own model runs through it, results become a table and a picture."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SPEED = """\
  tiny: &speed
    {model: tiny, mode: eager, cases: [aspirin], threads: [1], allocators: [keep], memory_limit_gib: 20,
     repetitions: 3, max_seconds: 5}
  twin: *speed
  starved: {<<: *speed, memory_limit_gib: 0.5}
"""


def test_every_row_is_valid_and_names_a_program(harness: Callable[[str], ModuleType]) -> None:
    rows = harness("rows").load_rows()
    programs = {name: harness("programs.registry").program_of(model) for name, model in rows.models.items()}
    assert {type(program).__name__ for program in programs.values()} == {"Ours", "Mace", "Nequip"}
    # Ours has a recipe for each training set, and one that ends sooner.
    named = {model: re.sub("-(n50|short|3bpa)$", "", model) for model in rows.models}
    names = set(named.values())
    smallest = "foundation-xxs"  # only against those that are as fast
    sets = {(named[row.model], row.data.molecule, row.data.train) for row in rows.curves.values()}
    assert {(name, "aspirin", size) for name in names - {smallest} for size in (50, 950)} <= sets
    assert (smallest, "aspirin", 950) in sets
    assert {("foundation-xs", "3bpa", 450), ("mace-64", "3bpa", 450)} <= sets
    assert {row.model for row in rows.speed.values()} == names


def test_a_row_of_an_unknown_model_is_refused(
    harness: Callable[[str], ModuleType], tiny_rows: Callable[..., str], tmp_path: Path
) -> None:
    from foundation.errors import InputError

    text = tiny_rows(budget=1.0, growth=2.0, speed=SPEED).replace("model: tiny\n", "model: tyni\n")
    (tmp_path / "rows.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"curves\.tiny-4\.model: got 'tyni'; allowed: tiny"):
        harness("rows").load_rows(tmp_path / "rows.yaml")


def test_the_clock_stands_still_off_the_clock_and_carries_on(
    harness: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    clock_module = harness("clock")
    settings = clock_module.ClockSettings(
        folder=str(tmp_path), budget_cpu_s=1000.0, first_point_cpu_s=1e-3, growth=2.0, threads=1
    )
    clock = clock_module.TrainingClock(settings)
    clock.start()
    clock.steps = 3
    before = clock.wall_s
    clock.keep_if_due(lambda path: (time.sleep(0.5), path.touch()), suffix=".pt", last=True)
    clock.stop()
    assert clock.wall_s - before < 0.5
    assert json.loads((tmp_path / "000000003.json").read_text())["weights"] == "000000003.pt"
    (tmp_path / "000000009.json").touch()
    resumed = clock_module.TrainingClock(settings)
    resumed.restore(clock.state())
    resumed.start()
    assert resumed.wall_s >= clock.wall_s
    assert resumed.steps == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000003.json", "000000003.pt"]


def test_hot_frames_of_3bpa_are_tested_by_themselves(
    harness: Callable[[str], ModuleType], shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    split = harness("data").written_split("3bpa", num_train=450, num_val=50, num_test=20)
    labels = harness("data").load_frames(split.labels)
    assert labels.forces.shape == (164, 27, 3)
    assert labels.hot.tolist() == [False] * 20 + [True] * 144
    assert labels.forces[labels.hot].std(axis=(1, 2)).min() > 1.6
    moved = labels.forces + np.where(labels.hot, 0.2, 0.1)[:, None, None]
    np.savez(tmp_path / "predictions.npz", energy=labels.energy, forces=moved)
    found = harness("curve").errors(tmp_path / "predictions.npz", split)
    assert (found["test_frames"], found["hot_frames"]) == (20, 144)
    assert found["forces_mae_meV_per_A"] == pytest.approx(100.0)
    assert found["hot_forces_rmse_meV_per_A"] == pytest.approx(200.0)
    assert found["hot_energy_mae_meV"] == 0.0


def test_operations_are_counted_where_they_are_known(harness: Callable[[str], ModuleType]) -> None:
    import torch

    left, right = torch.rand(3, 5, requires_grad=True), torch.rand(5, 7)
    with harness("workers.measure").OperationCounter() as counter:
        product = left @ right
    assert counter.flop == 2 * 3 * 5 * 7
    assert counter.bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    assert product.shape == (3, 7)


def test_speed_tables_state_rates_failures_and_how_the_cost_grows(
    harness: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    found = {"lower_quartile_ms": 1.0, "upper_quartile_ms": 2.0, "peak_rss_mib": 500.0, "gflop": 2.0, "gbyte": 1.0}
    common = {"threads": 1, "allocator": "keep"}
    limits = {"sgemm_gflop_per_s": 100.0, "copy_gbyte_per_s": 20.0}
    lines = []
    for case, milliseconds in (("water192", 100.0), ("water12288", 6400.0)):
        measured = {**found, **limits, "median_ms": milliseconds}
        lines.append({"case": case, **common, **measured, **harness("speed").derived(measured, case)})
    lines.append({"case": "water1536", **common, "failed": "out of memory (limit 20 GiB)"})
    harness("results").write_results(tmp_path, kind="speed", row="one", lines=lines)
    text = harness("table").tables(tmp_path)
    assert "| one | 1 | keep | 100.00 (1.00–2.00) | 520.8 | 500 | 2 | 5.0 | 1 | 2.0 |" in text
    assert "| one | 1 | keep | out of memory (limit 20 GiB) |" in text
    assert "| one | 1 | keep | 1.000 |" in text


def test_ratios_are_of_turns_in_the_same_round(harness: Callable[[str], ModuleType]) -> None:
    machine = [1.0, 2.0, 1.5]  # its speed from round to round
    turns = {"slow": [[0.04 * now] * 3 for now in machine], "fast": [[0.03 * now] * 3 for now in machine]}
    found = harness("turns").compared(turns)
    assert found["slow"]["times_as_fast"] == found["slow"]["upper_quartile"] == 1.0
    assert found["fast"]["times_as_fast"] == pytest.approx(4 / 3)
    assert found["fast"]["upper_quartile"] - found["fast"]["lower_quartile"] == pytest.approx(0, abs=1e-12)
    assert (found["fast"]["fastest_ms"], found["fast"]["median_ms"]) == pytest.approx((30.0, 45.0))


@pytest.mark.ci
def test_rows_take_turns(
    harness: Callable[[str], ModuleType],
    tiny_rows: Callable[..., str],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "rows.yaml").write_text(tiny_rows(budget=1.0, growth=2.0, speed=SPEED), encoding="utf-8")
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    main = harness("__main__").main
    common = ["--rows", str(tmp_path / "rows.yaml"), "--results", str(tmp_path / "results")]
    few = ["--case", "aspirin", "--threads", "1", "--rounds", "3"]
    assert main([*common, "turns", "tiny", "twin", *few]) == 0, capsys.readouterr().err
    first, second = harness("results").read_results(tmp_path / "results", kind="turns")["tiny_aspirin"]
    assert (first["name"], second["name"]) == ("tiny", "twin")
    assert first["times_as_fast"] == 1.0
    assert 0.2 < second["times_as_fast"] < 5.0
    assert 0.0 < second["fastest_ms"] <= second["median_ms"]
    capsys.readouterr()
    assert main([*common, "table"]) == 0
    assert "aspirin, 1 thread, 3 turns each, compared with tiny" in capsys.readouterr().out
    assert main([*common, "turns", "tiny", "starved", *few]) == 2
    assert "starved: out of memory (limit 0.5 GiB)" in capsys.readouterr().err
    assert main([*common, "turns", "tiny", "tiny", *few]) == 2
    assert "turns: got 'tiny' twice" in capsys.readouterr().err


@pytest.mark.ci
def test_our_model_gives_a_curve_a_table_and_a_picture(
    harness: Callable[[str], ModuleType],
    tiny_rows: Callable[..., str],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "rows.yaml").write_text(tiny_rows(budget=1.0, growth=2.0, speed=SPEED), encoding="utf-8")
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    main, run = harness("__main__").main, tmp_path / "run"
    common = ["--rows", str(tmp_path / "rows.yaml"), "--results", str(tmp_path / "results")]
    assert main([*common, "curve", "tiny-4", "--out", str(run)]) == 0, capsys.readouterr().err
    lines = harness("results").read_results(tmp_path / "results", kind="curve")["tiny-4"]
    assert len(lines) >= 2
    assert [line["steps"] for line in lines] == sorted({line["steps"] for line in lines})
    with np.load(run / "points" / f"{lines[-1]['steps']:09d}.predictions.npz") as found:
        assert found["forces"].shape == (3, 21, 3)
    assert all(0 < line["forces_mae_meV_per_A"] < 3000 and line["test_frames"] == 3 for line in lines)
    capsys.readouterr()
    assert main([*common, "table"]) == 0
    assert f"| tiny-4 | {' | '.join('–' * 7)} | {lines[-1]['forces_mae_meV_per_A']:.2f} |" in capsys.readouterr().out
    assert main([*common, "plot", str(tmp_path / "curves.svg")]) == 0
    assert "tiny-4" in (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert main([*common, "curve", "tiny-4", "seed=1", "--out", str(run)]) == 2
    assert "row.seed: this run has 0, the row says 1" in capsys.readouterr().err
