"""Born effective charges that a model was never trained on, against those of SPICE.

    foundation train tasks/dipeptides --out runs/dipeptides
    python benchmarks/born_charges.py runs/dipeptides
    foundation train tasks/water_born --out runs/water_born
    python benchmarks/born_charges.py runs/water_born --cards water_bec_rpbe_d3

Every card of `spice_bec/` is read if none is named, of which structures with elements that the model does not know are
left out and counted. Errors are over all nine components of all atoms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import foundation
from foundation.data.card import DatasetConfig, card_names
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.data.splits import SplitConfig
from foundation.elements import element_names
from foundation.training.evaluation import evaluate

BATCH = BatchConfig(max_structures=16, max_atoms=512)
PROPERTY = "born_charges"


def main() -> None:
    """Print the errors of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    of_spice = [name for name in card_names() if name.startswith("spice_bec/")]
    parser.add_argument("--cards", nargs="+", default=of_spice, help="default: those of spice_bec/")
    arguments = parser.parse_args()
    model = foundation.load(str(arguments.run))
    for card in arguments.cards:
        config = DatasetConfig(card=card, split=SplitConfig(by="random"))
        data = GraphDataModule({"bec": config}, cutoff=model.cutoff, batch=BATCH, seed=0, levels=model.config.levels)
        data.setup()
        graphs = [
            graph for split in data.splits("bec") for graph in data.graphs("bec", split) if PROPERTY in graph.targets
        ]
        known = [graph for graph in graphs if set(graph.atomic_numbers.tolist()) <= set(model.config.elements)]
        for graph in known:
            graph.targets = {PROPERTY: graph.targets[PROPERTY]}
            graph.masks = {PROPERTY: graph.masks[PROPERTY]}
        found = evaluate(model, {"bec": known}, batch=BATCH, device="cpu").predictions["bec"]
        error = found[f"{PROPERTY}__prediction"] - found[f"{PROPERTY}__target"]
        sys.stdout.write(
            f"{card}: RMSE {np.sqrt((error**2).mean()):.3f} e, MAE {np.abs(error).mean():.3f} e, "
            f"{len(known)} structures, {len(graphs) - len(known)} with unknown elements left out\n"
        )
        numbers = np.concatenate([graph.atomic_numbers.numpy() for graph in known])
        traces = {key: found[f"{PROPERTY}__{key}"].reshape(-1, 9)[:, ::4].mean(1) for key in ("target", "prediction")}
        for number in np.unique(numbers):
            means = ", ".join(f"{key} {values[numbers == number].mean():+.3f} e" for key, values in traces.items())
            sys.stdout.write(f"  {element_names([number])}, mean of the diagonal: {means}\n")


if __name__ == "__main__":
    main()
