"""Molecules far apart keep their own charges once a model has learnt to miss none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase.build import molecule

from foundation.backbones import EquivariantConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import ElectrostaticsConfig
from foundation.heads import default_head
from foundation.heads.charges import ChargesConfig
from foundation.model import FoundationModel, ModelConfig
from foundation.testing import predict
from foundation.training.objectives import LocalChargesConfig, LocalChargesObjective

CUTOFF = 3.0
APART = (30.0, 0.0, 0.0)
"""Å."""


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def graph_of(*names: str) -> AtomGraph:
    """Neutral molecules in a row."""
    parts = [molecule(name) for name in names]
    graph = build_graph(
        positions=np.concatenate([part.positions + place * np.array(APART) for place, part in enumerate(parts)]),
        atomic_numbers=np.concatenate([part.numbers for part in parts]),
        total_charge=0.0,
        spin_multiplicity=1,
    )
    return with_neighbors(graph, CUTOFF)


def charge_of_the_first(model: FoundationModel) -> float:
    """Of water beside methanol, e."""
    return float(predict(model, graph_of("H2O", "CH3OH"), ["partial_charges"])["partial_charges"][:3].sum())


def binding(model: FoundationModel) -> float:
    """Energy of the two together less that of each alone, eV."""
    names = (("H2O", "CH3OH"), ("H2O",), ("CH3OH",))
    together, first, second = (float(predict(model, graph_of(*one), ["energy"])["energy"]) for one in names)
    return together - first - second


@pytest.mark.parametrize("feedback", [None, {"rounds": 1}])
def test_neutral_molecules_far_apart_stay_neutral(feedback: dict[str, int] | None) -> None:
    torch.manual_seed(0)
    model = FoundationModel(
        ModelConfig(
            backbone=EquivariantConfig(cutoff=CUTOFF, channels=4, pseudo_channels=0, radial_groups=1, num_layers=1),
            heads={"energy": default_head("energy"), "charges": ChargesConfig(hidden=8)},
            elements=(1, 6, 8),
            levels=("one",),
            electrostatics=ElectrostaticsConfig.model_validate({"kind": "coulomb", "feedback": feedback}),
        )
    )
    model.scaling.reference_energies.zero_()
    for parameter in model.heads["charges"].parameters():
        torch.nn.init.normal_(parameter)
    batch = collate([graph_of("H2O"), graph_of("CH3OH")])
    assert abs(charge_of_the_first(model)) > 0.1
    assert abs(binding(model)) > 0.1

    objective = LocalChargesObjective(name="local", config=LocalChargesConfig(weight=1.0), dataset_names=("one",))
    view = objective.prepare(batch, torch.Generator())
    optimizer = torch.optim.LBFGS(model.heads["charges"].parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        found = objective.loss(model(view, properties=["missing_charge"]), view, model).total
        found.backward()
        return found.item()

    optimizer.step(loss)
    assert predict(model, batch, ["missing_charge"])["missing_charge"].abs().max() < 1e-5
    assert predict(model, batch, ["partial_charges"])["partial_charges"].abs().max() > 0.05, "charges are still there"
    assert abs(charge_of_the_first(model)) < 1e-5
    # What is left is what dipoles do to each other.
    assert abs(binding(model)) < 0.01
