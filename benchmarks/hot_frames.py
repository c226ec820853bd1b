"""How a model of 3BPA at 300 K does on hot frames: those of the mixed-temperature file with large forces.

    foundation train tasks/3bpa --out runs/3bpa
    python benchmarks/hot_frames.py runs/3bpa

Frames whose force components have a standard deviation above 1.6 eV/Å stand in for the 1200 K test set. Prints energy
(meV) and force errors (meV/Å, all components).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import foundation
from foundation.data.card import DatasetConfig
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.data.splits import SplitConfig
from foundation.model import FoundationModel
from foundation.training.evaluation import evaluate

CARD = "3bpa/mixed_temperatures"
HOT = 1.6
"""eV/Å."""
BATCH = BatchConfig(max_structures=32, max_atoms=1024)


def errors(model: FoundationModel) -> dict[str, dict[str, np.ndarray]]:
    """Prediction minus label of the hot frames and of the others.

    Args:
        model: Of energies and forces.

    Returns:
        `hot` and `others` -> `forces` (meV/Å, all components) and `energies` (meV, one a frame).
    """
    whole = DatasetConfig(card=CARD, split=SplitConfig(by="random"))
    data = GraphDataModule({"bpa": whole}, cutoff=model.cutoff, batch=BATCH, seed=0, levels=model.config.levels)
    data.setup()
    graphs = list(data.graphs("bpa", "train"))
    hot = [float(graph.targets["forces"].std(correction=0)) > HOT for graph in graphs]
    differences = {}
    for name, wanted in (("hot", True), ("others", False)):
        chosen = [graph for graph, is_hot in zip(graphs, hot, strict=True) if is_hot == wanted]
        found = evaluate(model, {"bpa": chosen}, batch=BATCH, device="cpu").predictions["bpa"]
        forces = 1e3 * (found["forces__prediction"] - found["forces__target"])
        energies = 1e3 * (found["energy__prediction"] - found["energy__target"])
        differences[name] = {"forces": forces, "energies": energies}
    return differences


def main() -> None:
    """Print errors on hot frames and on the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    for name, found in errors(foundation.load(str(parser.parse_args().run))).items():
        forces, energies = found["forces"], found["energies"]
        sys.stdout.write(
            f"{name}: {len(energies)} frames, forces {_both(forces)} meV/Å, energies {_both(energies)} meV\n"
        )


def _both(differences: np.ndarray) -> str:
    return f"MAE {np.abs(differences).mean():.1f} RMSE {np.sqrt((differences**2).mean()):.1f}"


if __name__ == "__main__":
    main()
