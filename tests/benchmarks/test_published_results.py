"""The bake-off's published figures: no trial, no run of a part and no interruption takes any of them away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SPEED = """\
  tiny:
    {model: tiny, mode: eager, cases: [aspirin, train8], threads: [1, 2], allocators: [keep], memory_limit_gib: 20,
      repetitions: 3, max_seconds: 5}
"""


@pytest.fixture
def rows(tmp_path: Path, shared_data: Path, tiny_rows: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of rows, and a cache of its own."""
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    file = tmp_path / "rows.yaml"
    file.write_text(tiny_rows(budget=2.0, growth=1.5, speed=SPEED), encoding="utf-8")
    return file


def test_evaluating_a_run_without_weights_leaves_the_results(
    harness: Callable[[str], ModuleType], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    file = harness("results").write_results(results, kind="curve", row="tiny-4", lines=[{"steps": 1}])
    before = file.read_text(encoding="utf-8")
    arguments = ["--rows", str(rows), "--results", str(results), "curve", "tiny-4", "--out", str(tmp_path / "new")]
    assert harness("__main__").main([*arguments, "--evaluate-only"]) == 2
    assert f"curve tiny-4: {tmp_path / 'new' / 'points'} holds no weights to evaluate" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == before


def test_results_that_cannot_be_written_whole_leave_the_old_ones(
    harness: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    write = harness("results").write_results
    file = write(tmp_path, kind="speed", row="one", lines=[{"median_ms": 1.0}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, kind="speed", row="one", lines=[{"median_ms": 2.0}, {"median_ms": float("nan")}])
    with pytest.raises(AssertionError, match="nothing"):
        write(tmp_path, kind="speed", row="one", lines=[])
    assert json.loads(file.read_text(encoding="utf-8"))["median_ms"] == 1.0
    assert list(tmp_path.iterdir()) == [file]


def test_results_of_a_trial_lie_in_its_folder(
    harness: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, places = harness("__main__"), []
    monkeypatch.setattr(program, "run_curve", lambda *_, results, **__: places.append(results))
    trial, elsewhere = str(tmp_path / "trial"), str(tmp_path / "elsewhere")
    for before, after in (([], []), ([], ["--out", trial]), (["--results", elsewhere], ["--out", trial])):
        assert program.main([*before, "curve", "foundation-xs-950", *after]) == 0
    assert places == [harness("results").RESULTS, Path(trial), Path(elsewhere)]


def test_measuring_a_part_of_a_row_keeps_the_rest(
    harness: Callable[[str], ModuleType], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, times = harness("speed"), {"now": 1.0}
    monkeypatch.setattr(speed, "speed_structures", lambda: tmp_path)
    monkeypatch.setattr(speed, "_measure", lambda *_, **__: {"median_ms": times["now"]})

    def measure(*overrides: str) -> dict[tuple[str, int], float]:
        loaded = harness("rows").load_rows(rows)
        speed.run_speed("tiny", loaded, overrides=overrides, results=tmp_path / "results")
        lines = harness("results").read_results(tmp_path / "results", kind="speed")["tiny"]
        return {(line["case"], line["threads"]): line["median_ms"] for line in lines}

    assert list(measure()) == [("aspirin", 1), ("aspirin", 2), ("train8", 1), ("train8", 2)]
    times["now"] = 2.0
    found = measure("cases=[train8]", "threads=[1]")
    assert found == {("aspirin", 1): 1.0, ("aspirin", 2): 1.0, ("train8", 1): 2.0, ("train8", 2): 1.0}
    assert list(found) == [("aspirin", 1), ("aspirin", 2), ("train8", 1), ("train8", 2)]


@pytest.mark.ci
def test_a_curve_that_was_killed_goes_on_where_it_was(
    harness: Callable[[str], ModuleType],
    repository: Path,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    words = ["--rows", str(rows), "curve", "tiny-4", "--out", str(run)]
    command = [sys.executable, "-m", "benchmarks.backbones", *words, "budget_cpu_s=1000"]
    process = subprocess.Popen(command, cwd=repository, start_new_session=True)  # its training is killed with it
    try:
        deadline = time.monotonic() + 120
        while len(kept := sorted((run / "points").glob("*.json"))) < 3:
            assert process.poll() is None, (run / "train.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = kept[0].read_text(encoding="utf-8")  # later ones may be of steps that no checkpoint has, and come anew
    assert not (run / "curve_tiny-4.jsonl").exists()
    assert harness("__main__").main(words) == 0, capsys.readouterr().err
    assert "going on from" in (run / "train.log").read_text(encoding="utf-8")
    lines = harness("results").read_results(run, kind="curve")["tiny-4"]
    assert kept[0].read_text(encoding="utf-8") == first
    assert lines[0]["steps"] == json.loads(first)["steps"]
    assert lines[-1]["cpu_s"] >= 2.0
    for name in ("steps", "cpu_s"):
        assert [line[name] for line in lines] == sorted({line[name] for line in lines})
