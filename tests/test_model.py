"""What a model says of graphs that it cannot take."""

from __future__ import annotations

import pytest

from foundation.backbones import EquivariantConfig, VisnetConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
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
