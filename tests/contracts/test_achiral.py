"""Molecules that are their own mirror image: pseudoscalars are rounding, even after calibration on nothing else."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from foundation import testing
from foundation.config import resolve_extends, validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.linear import calibrated
from foundation.resources import recipes_dir

ACHIRAL = ("C6H6", "H2CO", "CH4", "NH3", "CH3CH2OH", "C5H5N")


def turned(atoms: Atoms) -> AtomGraph:
    """The molecule in a direction that no axis shares, so that nothing cancels exactly."""
    graph = build_graph(
        positions=atoms.positions @ testing.random_rotation(3).T,
        atomic_numbers=atoms.numbers,
        total_charge=0.0,
        spin_multiplicity=1,
    )
    return with_neighbors(graph, 5.0)


@pytest.mark.parametrize("size", ["backbones/xxs", "backbones/xs", "backbones/s"])
def test_float32_rounding_does_not_look_like_handedness(size: str) -> None:
    backbone = resolve_extends(size, search=recipes_dir())["model"]["backbone"]
    config = {
        "backbone": backbone,
        "heads": {"handedness": {"kind": "pseudoscalar"}},
        "elements": [1, 6, 7, 8],
        "levels": ["CIP"],
    }
    torch.manual_seed(0)
    model = FoundationModel(validate(ModelConfig, config, where=size))
    achiral = collate([turned(molecule(name)) for name in ACHIRAL])
    model.backbone.mean_neighbors.fill_(10.0)
    with calibrated(model), torch.no_grad():
        model(achiral, properties=("handedness",))
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.normal_()
    chiral = molecule("CH3CH2OH")
    chiral.rattle(0.3, seed=1)
    signal = float(model(collate([turned(chiral)]), properties=("handedness",))["handedness"].detach().abs())
    noise = float(model(achiral, properties=("handedness",))["handedness"].detach().abs().max())
    assert noise < 5e-3 * signal, (noise, signal)
