"""Objectives: what they do to a batch, and what they compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from foundation.data.graph import AtomGraph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.training.losses import MaeConfig, NormConfig
from foundation.training.objectives import (
    DenoisingConfig,
    DenoisingObjective,
    LocalChargesConfig,
    LocalChargesObjective,
    MaskedAtomsConfig,
    MaskedAtomsObjective,
    SupervisedConfig,
    SupervisedObjective,
    build_objectives,
)

NAMES = ("first", "second")
CUTOFF = 3.0


def seeded(seed: int = 0) -> torch.Generator:
    """A generator like the ones that the module hands out."""
    return torch.Generator().manual_seed(seed)


def supervised(prop: str, **options: object) -> SupervisedObjective:
    """A task of the given property."""
    config = SupervisedConfig(property=prop, weight=1.0, **options)  # type: ignore[arg-type]
    return SupervisedObjective(name=prop, config=config, dataset_names=NAMES)


def denoising(sigma: float = 0.05) -> DenoisingObjective:
    """Coordinate denoising."""
    config = DenoisingConfig(sigma=sigma, weight=1.0)
    return DenoisingObjective(name="noise", config=config, cutoff=CUTOFF, dataset_names=NAMES)


def masking(fraction: float) -> MaskedAtomsObjective:
    """Masked atoms."""
    config = MaskedAtomsConfig(fraction=fraction, weight=1.0)
    return MaskedAtomsObjective(name="mask", config=config, elements=(1, 6, 8), dataset_names=NAMES)


def test_energies_are_compared_per_atom_and_in_units_of_the_scale(
    graphs: list[AtomGraph], make_model: Callable[[], FoundationModel]
) -> None:
    model, batch = make_model(), collate(graphs[:6])
    error = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    outputs = {"energy": batch.targets["energy"] + error}
    loss = supervised("energy", loss=MaeConfig()).loss(outputs, batch, model)
    expected = (error / batch.num_atoms_per_graph).sum() / model.scaling.scale("energy")
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 6


def test_only_labelled_atoms_of_the_task_s_data_sets_count(
    graphs: list[AtomGraph], make_model: Callable[[], FoundationModel]
) -> None:
    model, batch = make_model(), collate(graphs[:8])
    outputs = {"forces": batch.targets["forces"] + torch.tensor([3.0, 0.0, 4.0])}
    sizes = {index: len(graphs[index].positions) for index in range(8)}
    both = supervised("forces", loss=NormConfig()).loss(outputs, batch, model)
    second = supervised("forces", data=("second",), loss=NormConfig()).loss(outputs, batch, model)
    assert both.count == sum(size for index, size in sizes.items() if index % 3)
    # Structures 3 and 7 are of the second data set; 3 has no forces.
    assert second.count == sizes[7]
    torch.testing.assert_close(second.total, 5 * second.count / model.scaling.scale("forces"))


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"'forces': unknown data sets \['third'\]; known: first, second"):
        supervised("forces", data=("third",))


def test_noise_has_the_stated_size_no_net_translation_and_leaves_the_batch_alone(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs)
    before = batch.positions.clone()
    view = denoising(sigma=0.05).prepare(batch, seeded())
    noise = view.targets["position_noise"]
    torch.testing.assert_close(view.positions - noise, before)
    assert torch.equal(batch.positions, before)
    assert "position_noise" not in batch.targets
    sums = torch.zeros(batch.num_graphs, 3, dtype=torch.float64).index_add(0, batch.graph_index, noise)
    assert sums.abs().max() < 1e-14
    # Taking the mean of n atoms away leaves (n - 1) / n of the variance.
    left = 1 - batch.num_graphs / len(noise)
    assert noise.std() == pytest.approx(0.05 * left**0.5, rel=0.1)
    assert view.masks["position_noise"].all()


def test_neighbours_are_those_of_the_displaced_atoms(graphs: list[AtomGraph]) -> None:
    view = denoising(sigma=0.3).prepare(collate(graphs[:5]), seeded(1))
    offset = 0
    for graph in graphs[:5]:
        moved = graph.clone()
        size = len(graph.positions)
        moved.positions = view.positions[offset : offset + size].clone()
        expected = with_neighbors(moved, CUTOFF)
        here = (view.receivers >= offset) & (view.receivers < offset + size)
        assert torch.equal(view.receivers[here] - offset, expected.receivers)
        assert torch.equal(view.senders[here] - offset, expected.senders)
        offset += size
    assert len(view.receivers) != len(collate(graphs[:5]).receivers)


def test_a_missing_charge_is_judged_by_the_size_of_its_structure(
    graphs: list[AtomGraph], make_model: Callable[[], FoundationModel]
) -> None:
    config = LocalChargesConfig(weight=1.0, data=("first",))
    objective = LocalChargesObjective(name="local", config=config, dataset_names=NAMES)
    batch = collate(graphs[:4])
    assert not objective.wants(batch)
    view = objective.prepare(batch, seeded())
    assert objective.wants(view)
    assert "missing_charge" not in batch.targets
    assert torch.equal(view.targets["missing_charge"], torch.zeros(4, dtype=torch.float64))
    # Of 3, 4 and 5 atoms; the fourth structure is of the other data set.
    missing = 0.05 * torch.tensor([0.0, 2 * 0.5, -(5**0.5) * 3.0, 7.0], dtype=torch.float64)
    loss = objective.loss({"missing_charge": missing}, view, make_model())
    assert loss.count == 3
    assert loss.total.item() == pytest.approx(0.0 + 0.5 * 0.5**2 + (3.0 - 0.5))


def test_the_same_generator_gives_the_same_noise(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs[:4])
    first, again, other = (denoising().prepare(batch, seeded(seed)).positions for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_denoising_is_judged_in_units_of_sigma(
    graphs: list[AtomGraph], make_model: Callable[[], FoundationModel]
) -> None:
    objective = denoising(sigma=0.05)
    view = objective.prepare(collate(graphs[:4]), seeded())
    outputs = {"position_noise": view.targets["position_noise"] + 0.1}
    loss = objective.loss(outputs, view, make_model())
    assert loss.count == len(view.positions)
    assert loss.total / loss.count == pytest.approx(4.0)


def test_hidden_atoms_carry_their_element_as_label(
    graphs: list[AtomGraph], make_model: Callable[[], FoundationModel]
) -> None:
    batch = collate(graphs)
    before = batch.atomic_numbers.clone()
    view = masking(0.3).prepare(batch, seeded())
    hidden = view.masks["masked_element"]
    assert torch.equal(batch.atomic_numbers, before)
    assert torch.equal(view.atomic_numbers, torch.where(hidden, 0, before))
    assert torch.equal(torch.tensor([1, 6, 8])[view.targets["masked_element"]], before)
    assert hidden.double().mean() == pytest.approx(0.3, abs=0.12)
    loss = masking(0.3).loss({"masked_element": torch.zeros(len(before), 3)}, view, make_model())
    assert loss.count == hidden.sum()
    assert loss.total / loss.count == pytest.approx(1.0986, rel=1e-4)


def test_objectives_that_the_model_cannot_serve_are_all_named(make_model: Callable[[], FoundationModel]) -> None:
    configs = {
        "dipole": SupervisedConfig(property="dipole", weight=1.0),
        "noise": DenoisingConfig(weight=1.0, view="one"),
        "labelled noise": SupervisedConfig(property="position_noise", weight=1.0),
        "plain": MaskedAtomsConfig(weight=1.0, view="clean"),
    }
    with pytest.raises(InputError) as caught:
        build_objectives(configs, model=make_model(), dataset_names=NAMES)
    first, second, third = caught.value.problems
    assert first.startswith("'dipole': the model has no head for 'dipole'; it predicts: energy, forces")
    assert second.startswith("'labelled noise': view 'clean' of 'position_noise', which 'noise' compares in view 'one'")
    assert third == "'plain': view 'clean' is the batch as loaded; name another"


@pytest.mark.parametrize("view", ["corrupted", "other"])
def test_two_objectives_never_make_the_labels_of_one_property(
    view: str, make_model: Callable[[], FoundationModel]
) -> None:
    configs = {
        "noise": DenoisingConfig(weight=1.0, data=("first",)),
        "mask": MaskedAtomsConfig(weight=1.0),
        "more noise": DenoisingConfig(weight=1.0, data=("second",), view=view),
        "more mask": MaskedAtomsConfig(weight=1.0, view=view),
    }
    with pytest.raises(InputError) as caught:
        build_objectives(configs, model=make_model(), dataset_names=NAMES)
    first, second = caught.value.problems
    assert first.startswith("'more noise': 'noise' makes the labels of 'position_noise' already; allowed: one such")
    assert second.startswith("'more mask': 'mask' makes the labels of 'masked_element' already")
    assert len(build_objectives({"a": configs["noise"], "b": configs["mask"]}, model=make_model(), dataset_names=NAMES))


def test_nothing_to_train_is_refused(make_model: Callable[[], FoundationModel]) -> None:
    with pytest.raises(InputError, match="nothing to train"):
        build_objectives({}, model=make_model(), dataset_names=NAMES)
