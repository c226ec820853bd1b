"""Energies and forces of test frames by our own model: `python -m … RUN TEST CHECKPOINT=OUTPUT …`.

Checkpoints are Lightning's, taken amid the run; their moving average is what is evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ase.io
import numpy as np
import torch

from foundation.data.graph import build_graph
from foundation.data.neighbors import with_neighbors
from foundation.run.directory import read_recipe
from foundation.run.plan import Plan, make_plan, prepare_data
from foundation.training.evaluation import bounded_batches

BATCH = 10


def set_averaged_weights(plan: Plan, checkpoint: Path) -> None:
    """Put the averaged weights of one of a run's checkpoints into its model."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    plan.module.load_state_dict(state["state_dict"])
    average = plan.module.average
    if average is not None:
        average.load_state_dict(state["callbacks"][average.state_key])
        plan.model.load_state_dict(average.state())


def main(run: str, test: str, *pairs: str) -> None:
    recipe = read_recipe(Path(run))
    plan = make_plan(recipe, prepare_data(recipe), start=None)
    model = plan.model.eval()
    graphs = []
    for atoms in ase.io.iread(test):
        graph = build_graph(
            positions=atoms.positions, atomic_numbers=atoms.numbers, total_charge=0.0, spin_multiplicity=1
        )
        graphs.append(with_neighbors(graph, model.cutoff))
    bounds = recipe.batch.model_copy(update={"max_structures": BATCH})
    for checkpoint, output in (pair.split("=") for pair in pairs):
        set_averaged_weights(plan, Path(checkpoint))
        energy, forces = [], []
        for batch in bounded_batches(graphs, bounds):
            with torch.no_grad():
                result = model(batch, properties=("energy", "forces"))
            energy.append(result["energy"].double().numpy().reshape(-1))
            forces.append(result["forces"].double().numpy().reshape(len(energy[-1]), -1, 3))
        np.savez(output, allow_pickle=False, energy=np.concatenate(energy), forces=np.concatenate(forces))


if __name__ == "__main__":
    main(*sys.argv[1:])
