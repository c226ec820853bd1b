"""What the equivariant backbone computes for whom, and which shapes it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foundation.backbones import EquivariantConfig
from foundation.config import validate
from foundation.data.graph import build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.nn.features import Features


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edge_degree": 1}, "product_degree=3 is above edge_degree=1"),
        ({"degree": 4}, "product_degree=3 is below degree=4"),
        ({"channels": 6, "radial_groups": 4}, "channels=6 is not divisible by radial_groups=4"),
        ({"degree": 0}, r"degree=0 leaves the pseudo tower \(pseudo_channels=8\) without a source; allowed"),
        ({"cutoff": 1e9}, "cutoff"),
        ({"radial_spacing": 1e-6}, r"radial_spacing=1e-06 Å makes 5e\+06 distances .* allowed: 1000"),
    ],
)
def test_shapes_that_leave_features_without_a_source_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(EquivariantConfig, settings, where="backbone")


def test_the_pseudo_tower_is_computed_only_for_heads_that_read_it(
    make_model: Callable[..., FoundationModel],
) -> None:
    heads = {"energy": {"kind": "energy"}, "handedness": {"kind": "pseudoscalar"}, "dipole": {"kind": "charges"}}
    model = make_model(heads)
    positions = np.random.default_rng(0).normal(size=(5, 3)) * 1.5
    graph = build_graph(positions=positions, atomic_numbers=[6, 1, 7, 8, 1], total_charge=0.0, spin_multiplicity=1)
    batch = collate([with_neighbors(graph, model.cutoff)])
    seen: list[int] = []

    def record(module: torch.nn.Module, arguments: Any, features: Features) -> None:
        del module, arguments
        seen.append(features.pseudo.shape[2])

    model.backbone.register_forward_hook(record)
    alone = model(batch, properties=("energy", "forces", "dipole"))
    together = model(batch, properties=("energy", "forces", "dipole", "handedness"))
    assert seen == [0, 4]
    for name, values in alone.items():
        assert torch.equal(values, together[name]), name
