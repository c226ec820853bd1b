"""Layers that are computed anew in the backward pass: the same gradients, less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.backbones import VisnetConfig
from foundation.cli import main
from foundation.cost.measure import peak_mbyte
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads.energy import EnergyConfig
from foundation.model import FoundationModel, ModelConfig

HEADS = {"energy": {"kind": "energy"}, "handedness": {"kind": "pseudoscalar"}, "dipole": {"kind": "charges"}}
FORCES = ("energy", "forces", "stress", "dipole", "handedness")


@pytest.fixture
def crystal() -> AtomGraph:
    """Two periodic structures of eight atoms."""
    random = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(range(2), range(2), range(2)), axis=-1).reshape(-1, 3) * 1.6
    graphs = [
        build_graph(
            positions=corners + random.normal(scale=0.1, size=(8, 3)),
            atomic_numbers=random.choice([1, 6, 8], size=8),
            total_charge=0.0,
            spin_multiplicity=1,
            cell=np.eye(3) * 4.5,
            pbc=(True, True, True),
        )
        for _ in range(2)
    ]
    return collate([with_neighbors(graph, 4.0) for graph in graphs])


def gradients(model: FoundationModel, batch: AtomGraph, properties: tuple[str, ...]) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    outputs = model(batch, properties=properties, create_graph=True)
    torch.stack([value.double().sin().sum() for value in outputs.values()]).sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def assert_same_gradients(model: FoundationModel, batch: AtomGraph, properties: tuple[str, ...]) -> None:
    model.double().train()
    expected = gradients(model, batch, properties)
    assert len(expected) > 20
    model.backbone.recomputes = True
    found = gradients(model, batch, properties)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_gradients_of_forces_and_stress_are_equal_bit_for_bit(
    make_model: Callable[..., FoundationModel], crystal: AtomGraph
) -> None:
    assert_same_gradients(make_model(HEADS, num_layers=2), crystal, FORCES)


def test_gradients_of_the_other_backbone_are_equal_bit_for_bit(crystal: AtomGraph) -> None:
    torch.manual_seed(0)
    backbone = VisnetConfig(cutoff=4.0, channels=8, num_heads=2, num_layers=2)
    heads = {"energy": EnergyConfig()}
    model = FoundationModel(ModelConfig(backbone=backbone, heads=heads, elements=(1, 6, 8), levels=("PBE",)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model.scaling.references("energy")[:] = 0.0
    assert_same_gradients(model, crystal, ("energy", "forces"))


@pytest.mark.ci
def test_training_without_forces_holds_far_less_at_a_time(
    make_model: Callable[..., FoundationModel], crystal: AtomGraph
) -> None:
    model = make_model({"energy": {"kind": "energy"}}, num_layers=4, channels=16).train()

    def peak(properties: tuple[str, ...]) -> float:
        def step() -> Any:
            return gradients(model, crystal, properties)

        return peak_mbyte(step, device=torch.device("cpu"), held=[*model.parameters(), *model.buffers()])

    kept = {properties: peak(properties) for properties in (("energy",), ("energy", "forces"))}
    model.backbone.recomputes = True
    assert peak(("energy",)) < 0.6 * kept["energy",]
    assert peak(("energy", "forces")) < 0.95 * kept["energy", "forces"]


def test_evaluation_keeps_nothing_anyway_and_computes_once(
    make_model: Callable[..., FoundationModel], crystal: AtomGraph
) -> None:
    model = make_model(HEADS, num_layers=2)
    model.backbone.recomputes = True
    calls = []
    model.backbone.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model(crystal, properties=("energy", "forces"))
    assert len(calls) == 1
    model.train()
    gradients(model, crystal, ("energy", "forces"))
    assert len(calls) == 4  # the step itself, the derivative by positions, the derivative of both by weights


def test_together_with_compiled_steps_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["activation_checkpointing=true", "compile.enabled=true", "--out", str(tmp_path / "run")]
    assert main(["train", "tasks/rmd17_aspirin", *arguments]) == 2
    assert capsys.readouterr().err.count("activation_checkpointing: got true with compile.enabled true") == 1
    assert not (tmp_path / "run").exists()
