"""Features answer to distant charges: what only feedback can do."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms

from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics.feedback import FeedbackConfig, FieldFeedback
from foundation.electrostatics.sources import Potential
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.features import FeatureLayout, Features

CUTOFF = 3.0
LAYOUT = FeatureLayout(degree=2, natural_channels=4, pseudo_channels=2)


def model(rounds: int | None) -> FoundationModel:
    torch.manual_seed(0)
    config = {
        "backbone": {"kind": "equivariant", "cutoff": CUTOFF, "channels": 8, "pseudo_channels": 4, "num_layers": 1},
        "heads": {"energy": {"kind": "energy"}, "charges": {"kind": "charges"}},
        "elements": [1, 8, 11],
        "levels": ["only"],
        "electrostatics": {"kind": "coulomb", "feedback": None if rounds is None else {"rounds": rounds}},
    }
    made = FoundationModel(validate(ModelConfig, config, where="model")).double()
    for name, parameter in made.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    made.scaling.reference_energies.zero_()
    return made.eval()


def water_and_ion(distance: float) -> AtomGraph:
    """A water molecule and a sodium atom far beyond the cutoff."""
    atoms = Atoms("OHHNa", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0, 0, distance]])
    graph = build_graph(positions=atoms.positions, atomic_numbers=atoms.numbers, total_charge=1.0, spin_multiplicity=1)
    return collate([with_neighbors(graph, CUTOFF)])


@pytest.mark.parametrize("rounds", [None, 1, 2])
def test_only_with_feedback_an_ion_beyond_sight_changes_the_features_of_a_molecule(rounds: int | None) -> None:
    made = model(rounds)
    near, far = (
        made._with_feedback(made.backbone(graph, with_pseudo=False), graph)[0].natural[:3].detach()
        for graph in (water_and_ion(6.0), water_and_ion(12.0))
    )
    change = float((near - far).abs().max())
    if rounds is None:
        assert change < 1e-12, "without feedback features depend on what is within the cutoff"
    else:
        assert change > 1e-3
    assert torch.equal(near[:, 0], far[:, 0]), "scalars do not answer"


def test_the_answer_of_vectors_is_linear_in_the_field() -> None:
    torch.manual_seed(0)
    features = Features(torch.randn(3, 9, 4), torch.randn(3, 9, 2), LAYOUT)
    feedback = FieldFeedback(FeedbackConfig.model_validate({}), LAYOUT)
    torch.nn.init.normal_(feedback.gate_out.weight)
    field = torch.randn(3, 3).double()
    once, twice = (
        feedback(features, Potential(torch.zeros(3).double(), factor * field)).natural - features.natural
        for factor in (1.0, 2.0)
    )
    torch.testing.assert_close(twice[:, 1:4], 2 * once[:, 1:4])
    torch.testing.assert_close(twice[:, 4:9], 4 * once[:, 4:9])


def test_a_fresh_round_changes_nothing() -> None:
    torch.manual_seed(0)
    features = Features(torch.randn(3, 9, 4), torch.randn(3, 9, 2), LAYOUT)
    potential = Potential(torch.randn(3).double(), torch.randn(3, 3).double())
    changed = FieldFeedback(FeedbackConfig.model_validate({}), LAYOUT)(features, potential)
    torch.testing.assert_close(changed.natural, features.natural, rtol=0, atol=0)
    assert changed.pseudo is features.pseudo


@pytest.mark.parametrize("degree", [1, 3])
def test_features_of_any_degree_take_part(degree: int) -> None:
    torch.manual_seed(0)
    layout = FeatureLayout(degree=degree, natural_channels=4, pseudo_channels=0)
    size = (degree + 1) ** 2
    features = Features(torch.randn(3, size, 4), torch.randn(3, size, 0), layout)
    feedback = FieldFeedback(FeedbackConfig.model_validate({}), layout)
    for parameter in feedback.parameters():
        torch.nn.init.normal_(parameter)
    changed = feedback(features, Potential(torch.ones(3).double(), torch.randn(3, 3).double()))
    moved = (changed.natural - features.natural).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [0 < index < 9 for index in range(size)]


def test_features_without_vectors_are_refused() -> None:
    layout = FeatureLayout(degree=0, natural_channels=4, pseudo_channels=0)
    with pytest.raises(InputError, match="feedback: the field changes vectors"):
        FieldFeedback(FeedbackConfig.model_validate({}), layout)
