"""The drawings: ticks at round numbers, parity, ROC and confusion from their definitions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from foundation.report.axes import Scale
from foundation.report.classification import Classification, draw_confusion, draw_roc, draw_top_k, roc
from foundation.report.error_tables import baseline_error
from foundation.report.parity import MAX_POINTS, Parity, caption, draw_parity, parities, parity_limits
from foundation.report.quantities import duration, error_unit, number, percent
from foundation.report.run_files import PredictionSet

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def value_of(label: str) -> float:
    """The number that a tick's label says."""
    text = label.replace("−", "-").replace("k", "e3").replace("M", "e6").replace("G", "e9")
    text = re.sub(r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "1e" + m[1].translate(SUPERSCRIPTS), text)
    mantissa, _, power = text.partition("·")
    return float(mantissa) * float(power) if power else float(mantissa)


@given(low=st.floats(-1e7, 1e7), width=st.floats(1e-3, 1e7))
def test_linear_ticks_are_inside_increasing_and_labelled_by_their_value(low: float, width: float) -> None:
    scale = Scale(low, low + width, 0.0, 300.0)
    ticks = scale.ticks(5)
    values = [value for value, _ in ticks]
    assert 2 <= len(ticks) <= 7
    assert values == sorted(values)
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in values)
    assert len({label for _, label in ticks}) == len(ticks)
    for value, label in ticks:
        assert value_of(label) == pytest.approx(value, abs=1e-3 * width)


@given(low=st.floats(-12, 8), decades=st.floats(0.05, 12))
def test_logarithmic_ticks_are_inside_and_labelled_by_their_value(low: float, decades: float) -> None:
    scale = Scale(10**low, 10 ** (low + decades), 0.0, 300.0, logarithmic=True)
    for value, label in scale.ticks(5):
        assert 0.0 <= scale.pixel(value) <= 300.0
        assert value_of(label) == pytest.approx(value)


def make_parity(target: np.ndarray, prediction: np.ndarray) -> Parity:
    arrays = {"forces__target": target, "forces__prediction": prediction}
    (parity,) = parities(PredictionSet(split="test", dataset="a", arrays=arrays))
    return parity


def test_parity_errors_are_those_of_the_components() -> None:
    target = np.zeros((5, 3))
    prediction = np.tile([0.1, -0.1, 0.4], (5, 1))
    parity = make_parity(target, prediction)
    assert parity.mae == pytest.approx(0.2)
    assert parity.rmse == pytest.approx(np.sqrt(0.06))
    assert caption(parity).startswith("MAE 200\N{NO-BREAK SPACE}meV/Å, RMSE 245\N{NO-BREAK SPACE}meV/Å; 15 values")


@pytest.mark.parametrize("num_rows", [1, 2, 40, MAX_POINTS])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1.0, 1e9])
def test_parity_of_any_values_can_be_drawn(num_rows: int, spread: float) -> None:
    generator = np.random.default_rng(0)
    target = spread * generator.normal(size=(num_rows, 3))
    drawn = draw_parity(make_parity(target, target + spread * generator.normal(size=(num_rows, 3))))
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert ("density" in drawn) == (3 * num_rows > MAX_POINTS)


def test_density_covers_exactly_the_bins_that_hold_points() -> None:
    generator = np.random.default_rng(1)
    line = np.concatenate([[-1.0, 1.0], generator.uniform(-1, 1, MAX_POINTS * 2)])
    drawn = draw_parity(make_parity(line, line))
    shades = {int(shade) for shade in re.findall(r'class="density d(\d)"', drawn)}
    assert shades <= set(range(1, 8))
    corners = re.findall(r"M(-?[\d.]+) (-?[\d.]+)H(-?[\d.]+)v(-?[\d.]+)H", drawn)
    assert 60 <= len(corners) <= 72
    for left, top, right, height in corners:
        column, row = (float(left) + float(right)) / 2 - 52, float(top) + float(height) / 2 - 24
        assert column / 296 + row / 296 == pytest.approx(1.0, abs=0.02)


def test_the_outliers_that_the_frame_leaves_out_are_counted() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 9000)
    prediction = values.copy()
    prediction[:9] = 1e6
    parity = make_parity(values, prediction)
    assert parity_limits(parity)[1] < 1.1
    assert "9 outside the frame" in caption(parity)


def make_classification(positive: np.ndarray, logit: np.ndarray) -> Classification:
    return Classification("handedness", "a", "test", positive, logit)


@given(seed=st.integers(0, 1000), num_levels=st.integers(1, 40))
def test_area_under_the_roc_curve_agrees_with_torchmetrics_with_ties(seed: int, num_levels: int) -> None:
    generator = np.random.default_rng(seed)
    positive = np.concatenate([[True, False], generator.random(50) < 0.4])
    logit = generator.integers(0, num_levels, 52) / 4 + positive * 0.5
    curve = roc(make_classification(positive, logit))
    assert curve is not None
    wanted = float(binary_auroc(torch.from_numpy(logit).sigmoid(), torch.from_numpy(positive).long()))
    assert curve[2] == pytest.approx(wanted, abs=1e-6)


def test_confusion_and_accuracy_count_signs_of_logits() -> None:
    positive = np.array([True, True, True, False, False])
    result = make_classification(positive, np.array([1.0, 2.0, -1.0, -3.0, 4.0]))
    assert result.confusion.tolist() == [[1, 1], [1, 2]]
    assert result.accuracy == pytest.approx(0.6)
    assert result.majority == pytest.approx(0.6)
    assert "2 true R called R" in draw_confusion(result)


def test_one_class_alone_has_no_roc_curve() -> None:
    assert draw_roc(make_classification(np.ones(4, dtype=bool), np.arange(4.0))) is None


def test_top_k_is_drawn_only_where_it_was_measured() -> None:
    assert draw_top_k({"auc": 0.9}, description="sites") is None
    drawn = draw_top_k({"top1": 0.5, "top2": 0.75, "top3": 1.0}, description="sites")
    assert drawn is not None
    assert drawn.count('class="bar"') == 3


def test_blind_guesses_are_composition_zero_or_the_mean() -> None:
    labels = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]])
    assert baseline_error("forces", labels, None) == (pytest.approx(8 / 6), "zero")
    assert baseline_error("dipole", labels, None) == (pytest.approx(2 / 6), "the mean")
    assert baseline_error("dipole", labels, labels + 0.5) == (pytest.approx(0.5), "composition")


def test_energies_are_drawn_relative_to_what_the_composition_predicts() -> None:
    energy = np.array([-100.0, -50.0, -75.0])
    arrays = {"energy__target": energy, "energy__prediction": energy + 0.1, "energy__composition": energy - 1.0}
    (parity,) = parities(PredictionSet(split="test", dataset="a", arrays=arrays))
    assert parity.target.tolist() == [1.0, 1.0, 1.0]
    assert parity.mae == pytest.approx(0.1)
    assert "reference − composition (eV)" in draw_parity(parity)


def test_numbers_are_shown_with_the_digits_that_mean_something() -> None:
    shown = [number(value) for value in (0.0, 0.012345, 1.0, 12.345, 123.45, -12345.6, 3e-7, None, float("nan"))]
    space = "\N{NARROW NO-BREAK SPACE}"
    assert shown == ["0", "0.0123", "1.00", "12.3", "123", f"−12{space}346", "3.00×10⁻⁷", "–", "not finite"]
    assert [
        error_unit(name).label for name in ("energy", "forces", "stress", "dipole", "handedness", "position_noise")
    ] == [*("meV", "meV/Å", "meV/Å³", "e·Å", "", "Å")]
    assert percent(0.0345) == f"3.5{space}%"
    assert [duration(seconds) for seconds in (2.5, 42.0, 252.0, 11_100.0)] == [
        "2.5 s",
        "42 s",
        "4 min 12 s",
        "3 h 05 min",
    ]


def test_predictions_of_other_length_than_labels_are_said(finished_run: Path) -> None:
    from foundation.report.run_files import read_run

    path = finished_run / "predictions" / "test__enantiomers.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["handedness__prediction"] = arrays["handedness__prediction"][:-1]
    np.savez(path, **arrays)
    run = read_run(finished_run)
    assert any("handedness has 90 targets, 89 predictions" in problem for problem in run.problems)
