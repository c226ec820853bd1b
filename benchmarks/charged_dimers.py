"""Interaction energies of charged, polar and apolar dimers beyond 12 Å, with long range and without; a plot of both.

    foundation train tasks/charged_dimers --out runs/dimers
    foundation train tasks/charged_dimers model.electrostatics=null model.charges=null --out runs/dimers_short
    python benchmarks/charged_dimers.py runs/dimers runs/dimers_short --plot benchmarks/charged_dimers.png

Monomers are rigid: an interaction energy is the total energy minus the same two monomers' energies at every distance.
The labels give these; errors of interaction energies are those of total energies.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

import ase.io
import matplotlib as mpl
import numpy as np

import foundation
from foundation.data.card import DatasetConfig, data_root
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.model import FoundationModel
from foundation.training.evaluation import evaluate

mpl.use("Agg")
import matplotlib.pyplot as plt

PAIRS = {
    "cc": ("charged_dimers/cc", 0, "cation and anion"),
    "pa": ("charged_dimers/pa", 3, "polar and apolar"),
    "aa": ("charged_dimers/aa", 6, "two apolar"),
}
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
BATCH = BatchConfig(max_structures=4, max_atoms=512)


def interaction_energies(
    model: FoundationModel, name: str, split: Literal["train", "test"]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and given interaction energies, meV, in the order of the data set."""
    card = PAIRS[name][0]
    data = GraphDataModule(
        {name: DatasetConfig(card=card)}, cutoff=model.cutoff, batch=BATCH, seed=0, levels=model.config.levels
    )
    data.setup()
    graphs = list(data.graphs(name, split))
    graphs.sort(key=lambda graph: int(graph.structure_index))
    found = evaluate(model, {name: graphs}, batch=BATCH, device="cpu").predictions[name]
    given = np.array([float(graph.targets["interaction_energy"]) for graph in graphs])
    error = found["energy__prediction"] - found["energy__target"]
    return 1e3 * (given + error), 1e3 * given


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("long_range", type=Path)
    parser.add_argument("short_range", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    models = {
        "long range": foundation.load(str(arguments.long_range)),
        "no long range": foundation.load(str(arguments.short_range)),
    }
    root = data_root()
    assert root is not None, "the cards' files were just read from it"
    figure, axes = plt.subplots(1, len(PAIRS), figsize=(11, 3.4), layout="constrained")
    for axis, (name, (_, number, title)) in zip(axes, PAIRS.items(), strict=True):
        for split in SPLITS:
            frames = ase.io.read(root / f"charged_dimers/{split}-id{number}.xyz", index=":")
            assert isinstance(frames, list)
            distances = np.array([frame.info["distance"] for frame in frames])
            for label, model in models.items():
                predicted, given = interaction_energies(model, name, split)
                misses = np.abs(predicted - given)
                sys.stdout.write(
                    f"{title}, {split}, {label}: MAE {misses.mean():.2f} meV, largest {misses.max():.2f} meV\n"
                )
                style = {"long range": "o", "no long range": "^"}[label]
                filled = split == "train"
                color = {"long range": "#0072b2", "no long range": "#d55e00"}[label]
                axis.plot(
                    distances,
                    predicted,
                    style,
                    color=color,
                    markerfacecolor=color if filled else "white",
                    label=f"{label}, {'trained on' if filled else 'tested on'}",
                )
            axis.plot(distances, given, "-", color="black", label="HSE06" if split == "train" else None)
        axis.axvspan(12.4, 15.2, color="0.93", zorder=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("distance, Å")
    axes[0].set_ylabel("interaction energy, meV")
    axes[0].legend(fontsize=7)
    if arguments.plot:
        figure.savefig(arguments.plot, dpi=140)


if __name__ == "__main__":
    main()
