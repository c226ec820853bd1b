"""ViSNet: what the contracts that it shares with every backbone do not see."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3

from foundation import testing
from foundation.backbones import EquivariantConfig, VisnetBackbone, VisnetConfig, build_backbone
from foundation.checkpoint import CardInfo, initialise_from, load, save_model
from foundation.checkpoint.axes import axes_of
from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.scaling import fit_scaling
from foundation.training.optim import split_parameters

SMALL = VisnetConfig(cutoff=4.0, channels=16, num_heads=4, num_layers=2, num_basis=8)
ELEMENTS = (1, 6, 8, 29)


def model_of(
    *properties: str,
    backbone: VisnetConfig = SMALL,
    elements: tuple[int, ...] = ELEMENTS,
    levels: tuple[str, ...] = ("one", "two"),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> FoundationModel:
    """A model without a weight or reference that is zero: fresh heads would predict nothing."""
    heads = {name: default_head(name) for name in properties}
    torch.manual_seed(seed)
    model = FoundationModel(ModelConfig(backbone=backbone, heads=heads, elements=elements, levels=levels))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in model.scaling.named_buffers():
        if name.startswith("references"):
            buffer.copy_(torch.linspace(-1.0, 1.0, buffer.numel()).view_as(buffer))
    return model.double().eval() if dtype == torch.float64 else model.eval()


def graph_of(atoms: Atoms, *, charge: float = 0.0, spin: int = 1, level: int = 0) -> AtomGraph:
    periodic = atoms.pbc.any()
    graph = build_graph(
        positions=atoms.positions,
        atomic_numbers=atoms.numbers,
        total_charge=charge,
        spin_multiplicity=spin,
        cell=atoms.cell.array if periodic else None,
        pbc=atoms.pbc,
        level_index=level,
    )
    return with_neighbors(graph, SMALL.cutoff)


def energy(model: FoundationModel, graph: AtomGraph) -> float:
    return float(testing.predict(model, graph, ["energy"])["energy"])


@pytest.mark.parametrize("degree", [1, 2])
def test_features_turn_by_e3nns_matrices(degree: int) -> None:
    backbone = VisnetBackbone(SMALL, elements=ELEMENTS, num_levels=1).double()
    ethanol = graph_of(ase.build.molecule("CH3CH2OH"))
    rotation = testing.random_rotation(3)
    turned = testing.rebuild(ethanol, cutoff=SMALL.cutoff, positions=ethanol.positions.numpy() @ rotation.T)
    with torch.no_grad():
        before, after = (backbone(collate([graph])).select(degree, (-1) ** degree) for graph in (ethanol, turned))
    matrix = o3.Irreps(f"{degree}{'o' if degree % 2 else 'e'}").D_from_matrix(torch.from_numpy(rotation))
    expected = torch.einsum("mn,anc->amc", matrix, before)
    testing.assert_close(after, expected, f"features of degree {degree}", tolerance=1e-5)  # e3nn's own precision
    assert before.abs().max() > 1e-3


def test_an_atom_sees_its_own_images_as_it_sees_other_atoms() -> None:
    """In the cell of one atom all neighbours are images of itself; in larger cells of the same crystal none need be."""
    model = model_of("energy")
    copper = ase.build.bulk("Cu", "fcc", a=3.6)
    one = energy(model, graph_of(copper))
    for repeat in ((2, 1, 1), (3, 3, 3)):
        cells = int(np.prod(repeat))
        assert energy(model, graph_of(copper * repeat)) == pytest.approx(cells * one, rel=1e-10)
    assert one != pytest.approx(energy(model, graph_of(Atoms("Cu"))), rel=1e-3)


@pytest.mark.parametrize("numbers", [[6], [6, 8]], ids=["one atom", "atoms out of reach"])
def test_atoms_without_neighbors_train(numbers: list[int]) -> None:
    """No force on them, and neither it nor its gradients by the weights hold NaN."""
    model = model_of("energy")
    apart = Atoms(numbers=numbers, positions=[[50.0 * index, 0.0, 0.0] for index in range(len(numbers))])
    batch = collate([graph_of(apart), graph_of(ase.build.molecule("H2O"))])
    predicted = model(batch, properties=["energy", "forces"], create_graph=True)
    assert predicted["forces"][: len(numbers)].abs().max() == 0
    (predicted["energy"].sum() + predicted["forces"].square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_charge_spin_and_level_of_theory_are_seen() -> None:
    model = model_of("energy")
    water = ase.build.molecule("H2O")
    states = [(0.0, 1, 0), (1.0, 1, 0), (-1.0, 1, 0), (0.0, 3, 0), (0.0, 1, 1)]
    energies = [energy(model, graph_of(water, charge=charge, spin=spin, level=level)) for charge, spin, level in states]
    assert len({round(value, 6) for value in energies}) == len(states)


@pytest.mark.parametrize("config", [SMALL, EquivariantConfig(cutoff=4.0, channels=8)], ids=lambda config: config.kind)
def test_an_unknown_element_reads_no_others_row(config: VisnetConfig | EquivariantConfig) -> None:
    backbone = build_backbone(config, elements=ELEMENTS, num_levels=1)
    with pytest.raises(IndexError, match="out of range"):
        backbone(collate([graph_of(ase.build.molecule("NH3"))]))


def test_what_it_cannot_give_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"head 'pseudoscalar' for handedness: .* \(16x0e\+16x1o\+16x2e\) hold no pseudo tower"
    ):
        model_of("handedness")
    flat = SMALL.model_copy(update={"degree": 1})
    with pytest.raises(
        InputError, match=r"head 'tensor' for polarizability: the backbone's features \(16x0e\+16x1o\) hold no 2e"
    ):
        model_of("polarizability", backbone=flat)


def test_heads_have_to_share_the_channels() -> None:
    with pytest.raises(InputError, match="channels=12 is not divisible by num_heads=8"):
        validate(VisnetConfig, {"kind": "visnet", "channels": 12}, where="test")


def test_features_start_at_unit_variance() -> None:
    model = model_of("energy")
    structures = [graph_of(ase.build.molecule(name)) for name in ("CH3CH2OH", "CH3OH", "H2O", "C6H6")]
    batch = collate(structures)
    table = fit_scaling(structures, properties=model.properties, levels=("one", "two"), isolated_atoms={})
    model.prepare(table, batch)
    natural = model.backbone(batch).natural
    for degree in range(3):
        part = natural[:, degree**2 : (degree + 1) ** 2]
        assert part.square().mean().item() == pytest.approx(1.0, rel=0.3)


def test_the_optimizer_takes_its_matrices_for_matrices() -> None:
    matrices, others = split_parameters(model_of("energy"))
    assert {"backbone.layers.0.q_proj.weight", "backbone.neighbor_embedding.combine.weight"} <= matrices.keys()
    assert {"backbone.neighbor_embedding.embedding.weight", "backbone.scalar_norm.weight"} <= others.keys()


def test_every_axis_that_grows_with_elements_or_levels_is_known() -> None:
    small = model_of("energy", "masked_element", elements=(1, 6), levels=("a",)).state_dict()
    large = model_of("energy", "masked_element", elements=(1, 6, 7, 8), levels=("a", "b"))
    for name, tensor in large.state_dict().items():
        grown = [one != other for one, other in zip(small[name].shape, tensor.shape, strict=True)]
        known = [axis not in (None, "atomic_numbers") for axis in axes_of(name, tensor.ndim, large.config)]
        assert grown == known, name


def test_a_stored_model_is_the_saved_one_and_another_starts_from_it(tmp_path: Path) -> None:
    model = model_of("energy", "dipole", dtype=torch.float32)
    save_model(model, tmp_path / "model", card_info=CardInfo(title="test"))
    loaded = load(tmp_path / "model")
    assert loaded.config == model.config
    batch, asked = collate([graph_of(ase.build.molecule("H2O"))]), ["energy", "forces", "dipole"]
    ours, theirs = (testing.predict(one, batch, asked) for one in (model, loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in asked)
    other = model_of("energy", "dipole", elements=(1, 6, 7, 8, 29), levels=("two",), seed=1, dtype=torch.float32)
    report = initialise_from(other, loaded)
    backbone, source = cast("VisnetBackbone", other.backbone), cast("VisnetBackbone", loaded.backbone)
    kept = backbone.neighbor_embedding.embedding.weight[[0, 1, 3, 4, 5]]
    assert torch.equal(kept, source.neighbor_embedding.embedding.weight)
    assert report.new_elements == (7,)
    assert {one.property for one in report.parity} == other.properties


def test_large_weights_do_not_run_away() -> None:
    """Messages are products of five factors: unbounded, six layers of tenfold weights are beyond float32."""
    deep = SMALL.model_copy(update={"num_layers": 6})
    model = model_of("energy", backbone=deep, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.backbone.layers.parameters():
            parameter.mul_(10.0)
    batch = collate([graph_of(ase.build.molecule("CH3CH2OH"))])
    model(batch, properties=["forces"], create_graph=True)["forces"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
