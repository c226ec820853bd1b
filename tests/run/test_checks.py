"""What data make impossible is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from foundation.errors import InputError
from foundation.recipe import load_recipe
from foundation.run.checks import check_ranks
from foundation.run.plan import Plan, make_plan, prepare_data, scaling_sample
from foundation.run.training import describe

Write = Callable[..., Path]
Structure = Callable[..., Atoms]
CHARGES = "tasks={dipole: {property: dipole, data: [mine]}}"


def plan_of(recipe: Path, *overrides: str) -> Plan:
    checked = load_recipe(recipe, overrides=overrides)
    return make_plan(checked, prepare_data(checked), start=None)


def problem_of(recipe: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        plan_of(recipe, *overrides)
    return str(caught.value)


def test_an_element_without_a_training_label_is_refused(write_recipe: Write, structure: Structure) -> None:
    train = [structure("OH", seed=0, energy=-1.0, forces=np.zeros((2, 3))), structure("HNH", seed=1)]
    recipe = write_recipe(train=train, val=[structure("NH", seed=2, energy=-1.0, forces=np.zeros((2, 3)))])
    problem = problem_of(recipe)
    assert "data 'mine', split val: holds N, but no training label of 'energy'" in problem
    assert "isolated_atoms" in problem
    assert "holds N" in problem_of(recipe, "tasks.energy.property=forces"), "a force is of an energy"
    plan_of(recipe, "data.mine.isolated_atoms={values: {N: -2.0}, unit: eV}")


def test_validation_without_labels_is_no_validation(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "forces": np.zeros((2, 3))}
    recipe = write_recipe(train=[structure("OH", seed=0, **labels)], val=[structure("OH", seed=1)])
    assert not plan_of(recipe).validation.counts
    assert "early_stopping: no validation structure" in problem_of(recipe, "early_stopping={patience: 2}")
    recipe = write_recipe(train=[structure("OH", seed=0, **labels)], val=[structure("OH", seed=1, energy=-1.0)])
    validation = plan_of(recipe, "tasks.forces={property: forces, data: [mine]}").validation
    assert validation.counts
    assert validation.without_labels == ("forces",)


def test_labels_that_a_structure_cannot_have_are_refused(write_recipe: Write, structure: Structure) -> None:
    slab = structure("OH", seed=0, pbc=[True, True, False], energy=-1.0, stress=np.zeros(6), dipole=np.ones(3))
    molecule = structure("OH", seed=1, energy=-1.0)
    recipe = write_recipe(train=[slab, molecule], val=[molecule])
    assert "1 structures with 'stress' are not periodic" in problem_of(recipe, "tasks.energy.property=stress")
    assert "allowed: head: {kind: tensor}" in problem_of(recipe, CHARGES)
    plan_of(recipe, CHARGES, "tasks.dipole.head={kind: tensor}")
    quadrupole = "tasks.dipole.head={kind: charges, quadrupole: true}"
    assert "give no 'dipole'" in problem_of(recipe, CHARGES, quadrupole)


LATENT = "model.electrostatics={kind: coulomb, latent: true}"


def test_charges_without_labels_have_to_be_called_latent(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "dipole": np.ones(3)}
    recipe = write_recipe(train=[structure("OH", seed=0, **labels)], val=[structure("OH", seed=1, **labels)])
    coulomb = "model.electrostatics={kind: coulomb}"
    problem = problem_of(recipe, coulomb)
    assert "no task on dipole, partial_charges, born_charges with a head of kind 'charges'" in problem
    assert "latent: true" in problem
    assert "pending patent" in problem
    assert "allowed: false" in problem_of(recipe, LATENT, CHARGES)
    assert "allowed with model.electrostatics: {latent: true}" in problem_of(recipe, "model.charges={}")
    labelled = plan_of(recipe, coulomb, CHARGES).model.config.heads["charges"]
    assert labelled.kind == "charges"
    assert labelled.model.kind == "redistributed"
    assert labelled.model.start is None, "from zero"
    latent = plan_of(recipe, LATENT).model.config.heads["charges"]
    assert latent.kind == "charges"
    assert latent.model.kind == "redistributed"
    assert latent.model.start == "electronegativity"
    without_dipoles = plan_of(recipe, LATENT, "model.charges={atomic_dipoles: false}").model.config.heads["charges"]
    assert without_dipoles.kind == "charges"
    assert without_dipoles.model.kind == "redistributed"
    assert without_dipoles.model.start == "electronegativity", "a head of one's own starts no worse"
    stated = plan_of(recipe, LATENT, "model.charges={model: {kind: redistributed, start: zero}}")
    assert stated.model.config.heads["charges"].model.start == "zero"  # type: ignore[union-attr]
    chosen = plan_of(recipe, LATENT, "model.charges={model: {kind: qeq}}").model.config.heads["charges"]
    assert chosen.kind == "charges"
    assert chosen.model.kind == "qeq"


def test_charges_are_kept_local_where_they_interact(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "dipole": np.ones(3)}
    recipe = write_recipe(train=[structure("OH", seed=0, **labels)], val=[structure("OH", seed=1, **labels)])
    coulomb = "model.electrostatics={kind: coulomb}"
    assert not plan_of(recipe).local_charges, "no charges"
    assert not plan_of(recipe, CHARGES).local_charges, "they do not interact"
    for plan in (plan_of(recipe, LATENT), plan_of(recipe, coulomb, CHARGES)):
        assert plan.local_charges["local_charges"].data == ("mine",)
        assert "objective local_charges: local_charges, weight 0.1" in describe(plan)
        assert "local_charges" in [objective.name for objective in plan.module.objectives]
    head = "tasks.dipole.head={{kind: charges, model: {{kind: redistributed, locality: {}}}}}"
    assert plan_of(recipe, coulomb, CHARGES, head.format(0.3)).local_charges["local_charges"].weight == 0.3
    assert not plan_of(recipe, coulomb, CHARGES, head.format(0)).local_charges
    assert not plan_of(recipe, LATENT, "model.charges={model: {kind: qeq}}").local_charges
    same_name = "tasks={local_charges: {property: dipole, data: [mine]}}"
    assert "'local_charges' is the name of the objective" in problem_of(recipe, coulomb, same_name)


def test_charge_models_that_do_not_fit_are_refused(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "dipole": np.ones(3)}
    recipe = write_recipe(train=[structure("OHH", seed=0, **labels)], val=[structure("OH", seed=1, **labels)])
    equilibrated = "tasks.dipole.head={kind: charges, model: {kind: qeq, max_atoms: 2}}"
    alone = "tasks.dipole.head={kind: charges, model: {kind: qeq}}"
    assert "model has no electrostatics; allowed: model.electrostatics" in problem_of(recipe, CHARGES, alone)
    problem = problem_of(recipe, CHARGES, equilibrated, "model.electrostatics={}")
    assert "up to 2 atoms (max_atoms), data 'mine' has one of 3; allowed: charge model 'redistributed'" in problem
    unresponsive = "tasks.dipole.head={kind: charges, polarizability: true}"
    assert "'redistributed' does not respond to a field; allowed: model: {kind: qeq}" in problem_of(
        recipe, CHARGES, unresponsive
    )


def test_molecules_and_charged_crystals_train_together(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "forces": np.zeros((2, 3))}
    train = [structure("NaH", seed=0, pbc=True, **labels), structure("OH", seed=1, **labels)]
    charge = "data.mine.charge={key: total_charge}"
    recipe = write_recipe(train=[_charged(frame) for frame in train], val=[_charged(train[1])])
    plan = plan_of(recipe, LATENT, charge, "tasks.forces={property: forces, data: [mine]}")
    described = describe(plan)
    assert "charged cells: 1 of data mine are periodic and carry a net charge: the zero of energy is" in described
    assert "1 crystal: a uniform background of charge neutralises it" in described
    batch = next(iter(plan.data.train_dataloader()))
    assert batch.pbc.all(dim=1).tolist() in ([True, False], [False, True])
    forces = plan.model(batch, properties=["forces"])["forces"]
    assert forces.isfinite().all()


def _charged(frame: Atoms) -> Atoms:
    frame.info["total_charge"] = int(frame.pbc.all())
    return frame


def test_dispersion_is_added_only_to_labels_that_lack_it(write_recipe: Write, structure: Structure) -> None:
    labels = {"energy": -1.0, "dipole": np.ones(3)}
    recipe = write_recipe(train=[structure("OH", seed=0, **labels)], val=[structure("OH", seed=1, **labels)])
    asked = "model.dispersion={functional: pbe}"
    problem = problem_of(recipe, asked)
    assert "model.dispersion: data 'mine': got dispersion: unknown (level of theory 'EMT')" in problem
    assert "allowed: data.mine.dispersion: lacking" in problem
    included = "data.mine.dispersion=included"
    assert "got dispersion: included (level of theory 'EMT'), so it would count twice" in problem_of(
        recipe, asked, included
    )
    assert "as those of" not in problem_of(recipe, asked, included)
    plan_of(recipe, included)
    assert plan_of(recipe, asked, "data.mine.dispersion=lacking").model.dispersion is not None
    other = "data.other={card: embedded/gfn2, limit: 4, split: {by: random, train: 3, val: 1, test: 0, seed: 0}}"
    both = "tasks.energy.data=[mine, other]"
    problem = problem_of(recipe, asked, "data.mine.dispersion=lacking", other, both)
    assert "data 'other': got dispersion: included (level of theory 'GFN2-xTB')" in problem
    assert "only labels that lack it, as those of 'mine' do" in problem
    # Dipoles have no dispersion to count twice.
    plan_of(recipe, asked, "data.mine.dispersion=lacking", other, "tasks.moment={property: dipole, data: [other]}")


def test_more_ranks_than_structures_or_batches_are_refused(write_recipe: Write, structure: Structure) -> None:
    frames = [structure("OH", seed=seed, energy=-1.0) for seed in range(3)]
    recipe = write_recipe(train=frames[:2], val=frames[2:])
    check_ranks(
        {"accelerator": "cpu", "devices": 2}, prepare_data(load_recipe(recipe, overrides=("batch.max_structures=1",)))
    )
    data = prepare_data(load_recipe(recipe))
    with pytest.raises(InputError, match="2 training structures an epoch are 1 batch, which cannot feed 2 processes"):
        check_ranks({"accelerator": "cpu", "devices": 2}, data)
    with pytest.raises(InputError, match="4 processes for 2 training structures; allowed: at most 2"):
        check_ranks({"accelerator": "cpu", "devices": 2, "num_nodes": 2}, data)


def test_scales_are_measured_on_labels_that_are_learnt(write_recipe: Write, structure: Structure) -> None:
    train = [structure("OH", seed=0, energy=-1.0, forces=np.ones((2, 3)), dipole=np.ones(3))]
    checked = load_recipe(write_recipe(train=train, val=[structure("OH", seed=1)]))
    data = prepare_data(checked)
    graph = scaling_sample(data, {"mine": ("forces",)})[0]
    assert set(graph.targets) == set(graph.masks) == {"energy", "forces"}
    assert scaling_sample(data, {"mine": ()})[0].targets == {}
    assert "dipole" in data.graphs("mine", "train")[0].targets, "the data keep their labels"


def test_a_cutoff_within_which_every_atom_is_alone_is_refused(write_recipe: Write, structure: Structure) -> None:
    recipe = write_recipe(train=[structure("OH", seed=0, energy=-1.0)], val=[structure("OH", seed=1, energy=-1.0)])
    problem = problem_of(recipe, "model.backbone.cutoff=0.8")
    assert "model.backbone.cutoff: got 0.8 Å, within which no atom of the 1 training structures" in problem
    single = write_recipe(train=[structure("He", seed=0, energy=-1.0)], val=[structure("He", seed=1, energy=-1.0)])
    plan_of(single)
