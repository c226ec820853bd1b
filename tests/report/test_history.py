"""metrics.csv as series: resumed, cut off, not finite; and the panels made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundation.report.curves import curve_panels, draw_panel, thin_out
from foundation.report.history import parse_error_name, read_history


def history_of(folder: Path, text: str) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    path = folder / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    notes: list[str] = []
    history = read_history(path, notes)
    return {n: list(zip(s.steps, s.values, strict=True)) for n, s in history.series.items()}, notes


def test_columns_with_gaps_become_series(tmp_path: Path) -> None:
    text = "epoch,step,wall_s,train/loss,val/loss\n0,1,0.1,3.0,\n0,2,0.2,2.0,\n0,2,0.3,,2.5\n"
    assert history_of(tmp_path, text)[0] == {"train/loss": [(1, 3.0), (2, 2.0)], "val/loss": [(2, 2.5)]}


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    lines = ["step,train/loss", *(f"{step},{9 - step}" for step in range(1, 6)), "3,60", "4,50"]
    assert history_of(tmp_path, "\n".join(lines))[0] == {"train/loss": [(1, 8.0), (2, 7.0), (3, 60.0), (4, 50.0)]}


def test_a_line_cut_off_is_left_out(tmp_path: Path) -> None:
    assert history_of(tmp_path, "step,train/loss,val/loss\n1,3.0,\n2,2.")[0] == {"train/loss": [(1, 3.0)]}


def test_values_that_are_not_finite_are_counted_and_said(tmp_path: Path) -> None:
    series, notes = history_of(tmp_path, "step,train/loss\n1,3.0\n2,nan\n3,inf\n")
    assert series == {"train/loss": [(1, 3.0)]}
    assert notes == ["metrics.csv: 'train/loss' was not finite 2 times."]


@pytest.mark.parametrize("text", ["", "step,train/loss\n", "nonsense\n1\n", "step,train/loss\nx,y\n"])
def test_a_file_without_values_gives_no_series(tmp_path: Path, text: str) -> None:
    series, notes = history_of(tmp_path, text)
    assert series == {}
    assert notes == ["metrics.csv holds no values yet."]


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ("val/rmd17/aspirin/forces_mae_eV_per_A", ("val", "rmd17/aspirin", "forces", "mae")),
        ("val/a/energy_per_atom_rmse_eV_per_atom", ("val", "a", "energy_per_atom", "rmse")),
        ("val/a/energy_mae_eV", ("val", "a", "energy", "mae")),
        ("val/a/handedness_auc", ("val", "a", "handedness", "auc")),
        ("train/loss", None),
        ("train/energy_loss", None),
    ],
)
def test_metric_names_are_taken_apart(column: str, parts: tuple[str, str, str, str] | None) -> None:
    found = parse_error_name(column)
    assert (None if found is None else (found.stage, found.dataset, found.property, found.metric)) == parts


def test_errors_of_two_data_sets_share_a_panel_in_milli_electronvolts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,val/a/forces_mae_eV_per_A,val/b/forces_mae_eV_per_A,val/a/forces_rmse_eV_per_A\n"
        "1,0.5,0.9,0.7\n2,0.1,0.2,0.3\n3,0.2,0.1,0.3\n",
        encoding="utf-8",
    )
    (panel,) = curve_panels(read_history(path, []))
    assert (panel.title, panel.unit) == ("forces, MAE", "meV/Å")
    assert [line.label for line in panel.lines] == ["a", "b"]
    assert panel.best == (("a", 100.0, 2), ("b", 100.0, 3))


def test_the_best_of_a_score_is_its_highest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/a/handedness_auc\n1,0.5\n2,0.9\n3,0.8\n", encoding="utf-8")
    (panel,) = curve_panels(read_history(path, []))
    assert panel.best == (("a", 0.9, 2),)


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [-2.0, 3.0], [1e-12, 1e12], [0.0, 0.0, 5.0]])
def test_panels_of_any_values_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    path = tmp_path / "metrics.csv"
    rows = "\n".join(f"{step},{value}" for step, value in enumerate(values))
    path.write_text(f"step,train/loss\n{rows}\n", encoding="utf-8")
    (panel,) = curve_panels(read_history(path, []))
    assert "nan" not in draw_panel(panel)


def test_thinning_keeps_the_mean_and_the_extremes() -> None:
    steps, values = np.arange(24_000), np.random.default_rng(0).normal(size=24_000)
    _, means, lows, highs = thin_out(steps, values)
    assert len(means) < 500
    assert means.mean() == pytest.approx(values.mean())
    assert (lows.min(), highs.max()) == (values.min(), values.max())
