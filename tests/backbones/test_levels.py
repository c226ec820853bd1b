"""Weights for each level of theory: which batch sees which, and what starts where."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from foundation.compilation import CompiledModel
from foundation.data.graph import FIELDS, AtomGraph, build_graph, collate, some_graphs
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel

HEADS = {"energy": {"kind": "energy"}, "charges": {"kind": "charges"}, "handedness": {"kind": "pseudoscalar"}}
ASKED = ("energy", "forces", "dipole", "handedness")
LEVELS = ("PBE", "CCSD", "GFN2-xTB")
MakeModel = Callable[..., FoundationModel]


def molecule(level: int, *, atoms: int, seed: int) -> AtomGraph:
    random = np.random.default_rng(seed)
    graph = build_graph(
        positions=np.eye(atoms, 3) * 1.1 + random.normal(size=(atoms, 3)),
        atomic_numbers=random.choice([1, 6, 7, 8], atoms),
        total_charge=0.0,
        spin_multiplicity=1,
        level_index=level,
        structure_index=seed,
    )
    return with_neighbors(graph, 4.0)


@pytest.fixture
def graphs() -> list[AtomGraph]:
    return [molecule(level, atoms=atoms, seed=atoms) for level, atoms in ((1, 4), (0, 6), (1, 3), (2, 5))]


@pytest.fixture
def model(make_model: MakeModel) -> FoundationModel:
    return make_model(HEADS, levels=LEVELS, level_sharing=0.5).double()


def test_a_batch_of_several_levels_gives_what_each_structure_gives_alone(
    model: FoundationModel, graphs: list[AtomGraph]
) -> None:
    together = model(collate(graphs), properties=ASKED)
    alone = [model(collate([graph]), properties=ASKED) for graph in graphs]
    for name, values in together.items():
        torch.testing.assert_close(values, torch.cat([one[name] for one in alone]), atol=1e-10, rtol=1e-10)


def test_gradients_of_a_level_come_from_its_own_structures(model: FoundationModel, graphs: list[AtomGraph]) -> None:
    outputs = model(collate(graphs[:3]), properties=("energy", "forces"), create_graph=True)
    (outputs["forces"].square().sum() + outputs["energy"].sum()).backward()
    weight = model.backbone.get_parameter("layers.1.natural_first.weight").grad
    assert weight is not None
    assert weight[0].any()
    assert weight[1].any()
    assert not weight[2].any()


def test_the_same_structure_differs_by_level_only_if_weights_do(make_model: MakeModel) -> None:
    """Scales and embeddings of levels are made equal here, so that weights alone are left."""
    for sharing, differ in ((0.5, True), (1.0, False)):
        model = make_model(HEADS, levels=LEVELS, level_sharing=sharing).double()
        with torch.no_grad():
            model.backbone.conditioning.level.zero_()
            for layer in model.backbone.layers:
                layer.level_scale.zero_()
            model.scaling.reference_energies.zero_()
        batch = collate([molecule(level, atoms=5, seed=1) for level in range(3)])
        dipoles = model(batch, properties=("dipole",))["dipole"].detach()
        assert (float((dipoles - dipoles[0]).abs().max()) > 1e-3) == differ


def test_fresh_weights_are_the_same_for_all_levels_and_as_without() -> None:
    from foundation.backbones import EquivariantConfig, build_backbone

    backbones = []
    for sharing in (1.0, 0.25):
        torch.manual_seed(7)
        config = EquivariantConfig(channels=8, pseudo_channels=4, level_sharing=sharing)
        backbones.append(build_backbone(config, elements=(1, 6), num_levels=3))
    shared, apart = (dict(backbone.named_parameters()) for backbone in backbones)
    assert shared.keys() == apart.keys()
    for name, weight in apart.items():
        expected = shared[name] if weight.shape == shared[name].shape else shared[name].expand(weight.shape)
        assert torch.equal(weight, expected), name


def test_some_graphs_of_a_batch_are_the_batch_of_these(graphs: list[AtomGraph]) -> None:
    chosen = torch.tensor([True, False, True, True])
    found = some_graphs(collate(graphs), chosen).fields
    expected = collate([graph for graph, wanted in zip(graphs, chosen, strict=True) if wanted]).fields
    for name in (*FIELDS, "graph_index", "num_atoms_per_graph"):
        assert torch.equal(found[name], expected[name]), name
    assert (found["num_graphs"], found["num_levels"]) == (3, 2)
    # Its table of neighbours is as wide as the whole batch's: what is filled is the same.
    assert torch.equal(found["slot_senders"][found["slot_filled"]], found["senders"])
    assert torch.equal(found["slot_shifts"][found["slot_filled"]], found["edge_shifts"])


def test_recomputed_layers_of_several_levels_give_the_same_gradients(
    model: FoundationModel, graphs: list[AtomGraph]
) -> None:
    """The second forward pass, within the backward pass, must see the level of the first."""
    gradients = []
    for recomputes in (False, True):
        one = copy.deepcopy(model).train()
        one.backbone.recomputes = recomputes
        outputs = one(collate(graphs), properties=("forces",), create_graph=True)
        outputs["forces"].square().sum().backward()
        gradients.append([p.grad for p in one.backbone.layers.parameters() if p.grad is not None])
    for kept, anew in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, anew)


def test_compiling_a_batch_of_several_levels_is_refused_or_done_without(
    model: FoundationModel, graphs: list[AtomGraph]
) -> None:
    batch = collate(graphs)
    with pytest.raises(
        InputError, match=r"a batch of 3 levels of theory with weights each .* mixture\.batches: separate"
    ):
        CompiledModel(model)(batch, properties=("energy",))
    with pytest.warns(UserWarning, match="going on without"):
        found = CompiledModel(model, fallback="eager")(batch, properties=("energy",))
    assert torch.equal(found["energy"], model(batch, properties=("energy",))["energy"])
