"""What a model says of graphs that it cannot take, and what a prediction leaves of its weights."""

from __future__ import annotations

import pytest
import torch

from foundation.backbones import EquivariantConfig, VisnetConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.derive import constant_weights
from foundation.errors import InputError
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig

BACKBONES = [
    EquivariantConfig(channels=4, pseudo_channels=0, radial_width=8),
    VisnetConfig(channels=16, num_heads=4, num_layers=2, num_basis=8),
]


def hydride(number: int) -> AtomGraph:
    return build_graph(
        positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
        atomic_numbers=[number, 1],
        total_charge=0.0,
        spin_multiplicity=1,
    )


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.kind)
def test_graphs_that_a_model_cannot_take_are_refused_in_words(backbone: EquivariantConfig | VisnetConfig):
    model = FoundationModel(
        ModelConfig(backbone=backbone, heads={"energy": default_head("energy")}, elements=(1, 8), levels=("a",))
    )
    with pytest.raises(InputError, match="no neighbours yet"):
        model(hydride(8), properties=["energy"])
    with pytest.raises(InputError, match="has never seen F; it knows H O"):
        model(collate([with_neighbors(hydride(9), model.cutoff)]), properties=["energy"])
    hidden = collate([with_neighbors(hydride(8), model.cutoff)])
    hidden.atomic_numbers[1] = 0
    assert model(hidden, properties=["energy"])["energy"].shape == (1,)  # a masked atom is no unknown element


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.kind)
def test_predictions_that_nobody_differentiates_are_the_same_and_leave_the_weights(
    backbone: EquivariantConfig | VisnetConfig,
):
    model = FoundationModel(
        ModelConfig(backbone=backbone, heads={"energy": default_head("energy")}, elements=(1, 8), levels=("a",))
    )
    held = next(model.parameters()).requires_grad_(False)  # as one who fine-tunes a part of the weights does
    graph = collate([with_neighbors(hydride(8), model.cutoff)])
    learning = model(graph, properties=["forces"], create_graph=True)["forces"]
    with torch.no_grad():
        predicted = model(graph, properties=["forces"])["forces"]
    assert learning.requires_grad
    assert not predicted.requires_grad
    torch.testing.assert_close(predicted, learning.detach())
    assert held_ones(model) == [held]
    with constant_weights(model, when=True):
        assert len(held_ones(model)) == len(list(model.parameters()))
    assert held_ones(model) == [held]
    graph.positions = graph.positions[:1]
    with torch.no_grad(), pytest.raises((RuntimeError, IndexError, ValueError, TypeError)):
        model(graph, properties=["forces"])
    assert held_ones(model) == [held]


def held_ones(model: FoundationModel) -> list[torch.nn.Parameter]:
    """Weights that need no gradient."""
    return [one for one in model.parameters() if not one.requires_grad]
