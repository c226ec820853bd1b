"""Time-to-error curves as a picture: force error against CPU seconds, wall seconds and steps."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogFormatter, ScalarFormatter

from benchmarks.backbones.results import read_results
from foundation.errors import InputError

__all__ = ["plot_curves"]

AXES = {"cpu_s": "CPU seconds of training", "wall_s": "wall seconds of training", "steps": "optimizer steps"}


def plot_curves(results: Path, file: Path) -> None:
    """Draw all curves: one line of panels for each training set.

    Args:
        results: Where the JSON lines lie.
        file: Ending in .png or .svg.

    Raises:
        InputError: No results, or another ending.
    """
    if file.suffix not in {".png", ".svg"}:
        raise InputError(f"plot: got '{file}'; allowed: a name that ends in .png or .svg")
    curves = read_results(results, kind="curve")
    if not curves:
        raise InputError(f"{results}: no curves; run: python -m benchmarks.backbones curve ROW")
    sets = sorted({(lines[0]["data"]["molecule"], lines[0]["data"]["train"]) for lines in curves.values()})
    figure, panels = plt.subplots(len(sets), len(AXES), figsize=(5 * len(AXES), 4 * len(sets)), squeeze=False)
    for panel_row, (molecule, train) in zip(panels, sets, strict=True):
        for panel, (key, label) in zip(panel_row, AXES.items(), strict=True):
            for name, lines in curves.items():
                if (lines[0]["data"]["molecule"], lines[0]["data"]["train"]) != (molecule, train):
                    continue
                errors = [line["forces_mae_meV_per_A"] for line in lines]
                panel.plot([line[key] for line in lines], errors, marker="o", markersize=3, label=name)
            panel.set(xscale="log", yscale="log", xlabel=label, ylabel="force MAE on the test set, meV/Å")
            panel.set_title(f"{molecule}, {train} labels")
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
            panel.grid(visible=True, which="both", alpha=0.3)
        panel_row[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
