"""One picture of a run for a README: learning curves above, parity plots below."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from foundation.errors import InputError
from foundation.report.axes import Scale
from foundation.report.classification import Classification, classifications, roc
from foundation.report.curves import Panel, curve_panels, thin_out
from foundation.report.parity import MAX_POINTS, Parity, parities, parity_limits
from foundation.report.quantities import error_unit, percent, property_label, value_unit
from foundation.report.run_files import RunFiles, read_run

MAX_BYTES = 150_000
_COLUMNS = 4
_COLOURS = ("#2c6ca8", "#c8641e", "#2f8a68", "#8a559e", "#b08a1e", "#bd4760", "#3b93a5", "#6b7280")
_INK, _QUIET = "#20242a", "#5c6470"


def write_picture(run_dir: Path, png_path: Path) -> Path:
    """Draw a run's learning curves, parity plots and ROC curves on one white PNG below 150 kB.

    Args:
        run_dir: A run directory with a metrics.csv or predictions.
        png_path: Where to write.

    Returns:
        The path written.

    Raises:
        InputError: ``run_dir`` is not a run, or it holds nothing to draw yet.
    """
    run = read_run(run_dir)
    panels = _chosen_panels(run)
    judged = _chosen_judgements(run)
    if not panels and not judged:
        raise InputError(f"run directory '{run_dir}': nothing to draw yet: no logged values and no predictions")
    rows = [row for row in (panels, judged) if row]
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.0 * columns, 2.75 * len(rows)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for index, row in enumerate(rows):
        for axes, item in zip(grid[index], row, strict=False):
            _draw(axes, item)
        for axes in grid[index][len(row) :]:
            axes.set_axis_off()
    png_path.write_bytes(_small_png(figure))
    return png_path


def _chosen_panels(run: RunFiles) -> list[Panel]:
    """Errors first, then the loss; with a pretraining stage its loss stands in front."""
    own = curve_panels(run.history)
    errors = [panel for panel in own if panel.best or panel.unit not in ("normalised", "structures/s", "")]
    errors = [panel for panel in errors if not panel.unit.startswith("%")]
    losses = [panel for panel in own if panel.title == "total loss"]
    before = [] if run.pretraining is None else curve_panels(run.pretraining.history)[:1]
    before = [Panel(f"pretraining: {p.title}", p.unit, p.lines, p.logarithmic) for p in before]
    return (before + losses + errors)[:_COLUMNS]


def _chosen_judgements(run: RunFiles) -> list[Parity | Classification]:
    """One for each property of the test split, those that tasks learn first."""
    split = next((s for s in ("test", "val", "train") if any(p.split == s for p in run.predictions)), None)
    chosen = [found for found in run.predictions if found.split == split]
    every: list[Parity | Classification] = [p for found in chosen for p in parities(found)]
    every += [c for found in chosen for c in classifications(found)]
    first: dict[str, Parity | Classification] = {}
    for item in every:
        first.setdefault(item.property_name, item)
    order = sorted(first.values(), key=lambda item: not run.is_learnt(item.property_name, dataset=item.dataset))
    return order[:_COLUMNS]


def _draw(axes: Axes, item: Panel | Parity | Classification) -> None:
    match item:
        case Panel():
            _draw_curve(axes, item)
        case Parity():
            _draw_parity(axes, item)
        case Classification():
            _draw_roc(axes, item)
    axes.title.set(fontsize=9.5, color=_INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b9bec6")
    axes.tick_params(which="both", labelsize=7.5, colors=_QUIET, width=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=8, color=_QUIET)


def _draw_curve(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        steps, values, _, _ = thin_out(line.steps, line.values)
        width, opacity = (0.9, 0.5) if line.is_faint else (1.6, 1.0)
        marker = "o" if len(steps) == 1 else ""
        style = {"color": _COLOURS[line.colour], "marker": marker, "markersize": 3.0}
        axes.plot(steps, values, label=line.label, linewidth=width, alpha=opacity, **style)
    axes.set(title=panel.title, xlabel="optimizer step", ylabel=panel.unit)
    if panel.logarithmic:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = Scale(low, high, 0.0, 1.0, logarithmic=True).ticks(5)
        axes.set_yticks([value for value, _ in ticks], [label for _, label in ticks])
        axes.minorticks_off()
    axes.grid(axis="y", color="#e8e6e1", linewidth=0.6)
    if len(panel.lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _draw_parity(axes: Axes, parity: Parity) -> None:
    limits = parity_limits(parity)
    if len(parity.target) > MAX_POINTS:
        extent = (*limits, *limits)
        axes.hexbin(
            parity.target, parity.prediction, gridsize=55, extent=extent, norm=LogNorm(), cmap="Blues", mincnt=1, lw=0.1
        )
    else:
        axes.plot(parity.target, parity.prediction, ".", color=_COLOURS[0], markersize=3, alpha=0.5)
    axes.plot(limits, limits, color=_QUIET, linewidth=0.8, linestyle="--")
    unit, small = value_unit(parity.property_name).label, error_unit(parity.property_name)
    axes.set(title=f"{property_label(parity.property_name)}, {parity.split}", xlim=limits, ylim=limits)
    less = " − composition" if parity.is_relative else ""
    axes.set(
        xlabel=f"reference{less} ({unit})" if unit else f"reference{less}", ylabel=f"predicted{less}", aspect="equal"
    )
    axes.text(0.04, 0.96, f"MAE {small.show_with_unit(parity.mae)}", transform=axes.transAxes, va="top", fontsize=8)


def _draw_roc(axes: Axes, result: Classification) -> None:
    curve = roc(result)
    title = f"{property_label(result.property_name)}, {result.split}"
    axes.set(title=title, xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.plot((0, 1), (0, 1), color=_QUIET, linewidth=0.8, linestyle="--")
    words = f"{percent(result.accuracy)} right"
    if curve is not None:
        false_rate, true_rate, area = curve
        axes.plot(false_rate, true_rate, color=_COLOURS[0], linewidth=1.5)
        words = f"area {area:.3f}\n{words}"
    axes.text(0.96, 0.06, words, transform=axes.transAxes, ha="right", fontsize=8)


def _small_png(figure: Figure) -> bytes:
    """The figure as PNG below the limit: fewer colours, then fewer pixels."""
    for dots_per_inch in (160, 130, 100, 75):
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=dots_per_inch)
        image = (
            Image.open(raw).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
        packed = io.BytesIO()
        image.save(packed, format="png", optimize=True)
        if packed.tell() < MAX_BYTES:
            break
    return packed.getvalue()
