"""Everything of a run that can be wrong, put together before compute is spent."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from foundation.checkpoint import InitReport, initialise_from, load
from foundation.data.graph import AtomGraph, collate
from foundation.data.module import GraphDataModule
from foundation.data.readers import read_isolated_atoms
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig
from foundation.properties import get_property
from foundation.recipe import Recipe
from foundation.run.checks import (
    Validation,
    check_dispersion,
    check_neighbors,
    check_periodicity,
    check_references,
    check_sizes,
    elements_in,
    labelled_rows,
    learnt,
    validation_of,
)
from foundation.run.heads import heads_for, local_charges, with_charges
from foundation.run.ranks import num_ranks
from foundation.run.references import complete_carried_references
from foundation.scaling import ScalingTable, fit_scaling
from foundation.training.module import FoundationModule
from foundation.training.objectives import LocalChargesConfig, SupervisedConfig, build_objectives

__all__ = ["Plan", "check_data", "make_plan", "prepare_data"]

SCALING_STRUCTURES = 20_000
"""Training structures of each data set on which reference energies and scales are measured, if it has more."""
CALIBRATION_STRUCTURES = 32
"""Training structures on which features start at unit variance."""


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        recipe: What was asked for.
        data: Set up.
        model: Scaled, calibrated and initialised.
        module: What the trainer trains.
        scaling: What was measured on training data.
        init: What became of every weight, if the model starts from another.
        validation: What the validation loss counts.
        local_charges: The objective that keeps charges local, by its name; empty where there is none.
    """

    recipe: Recipe
    data: GraphDataModule
    model: FoundationModel
    module: FoundationModule
    scaling: ScalingTable
    init: InitReport | None
    validation: Validation
    local_charges: Mapping[str, LocalChargesConfig]

    def describe_start(self) -> list[str]:
        """What became of every weight of the model that this one starts from; nothing if it starts from none."""
        if self.init is None:
            return []
        origins = self.model.scaling.provenance.items()
        return [self.init.describe(), *(f"  reference energies of {level}: {how}" for level, how in origins)]


def prepare_data(recipe: Recipe) -> GraphDataModule:
    """Read, check, split and store all data of a recipe.

    Raises:
        InputError: Whatever is wrong with the data, or a task whose data carry no such label.
    """
    accumulated = int(recipe.trainer.get("accumulate_grad_batches", 1))
    data = GraphDataModule(
        recipe.data,
        cutoff=recipe.model.backbone.cutoff,
        batch=recipe.batch.shared(num_ranks=num_ranks(recipe.trainer), accumulated=accumulated),
        seed=recipe.seed,
        mixture=recipe.mixture,
        num_workers=recipe.num_workers,
    )
    _check_declared_labels(recipe, data)
    data.prepare_data()
    data.setup()
    check_data(recipe, data)
    return data


def _check_declared_labels(recipe: Recipe, data: GraphDataModule) -> None:
    """Before any file is read: every task's data sets have to declare its label."""
    problems = []
    for name, task in recipe.tasks.items():
        for dataset in task.data:
            declared = data.resolved[dataset].properties
            if task.property not in declared:
                known = ", ".join(declared) or "none"
                problems.append(f"tasks.{name}: data '{dataset}' has no label '{task.property}'; it has: {known}")
    if problems:
        raise InputError(problems)


def check_data(recipe: Recipe, data: GraphDataModule) -> None:
    """Every task needs a training label in each of its data sets.

    Raises:
        InputError: Each task without one.
    """
    problems = []
    for name, task in recipe.tasks.items():
        for dataset in task.data:
            if "train" not in data.splits(dataset):
                problems.append(f"tasks.{name}: data '{dataset}' has no training structures")
            elif int(label_count(data, dataset, "train", task.property)) == 0:
                problems.append(f"tasks.{name}: no training structure of data '{dataset}' carries '{task.property}'")
    if problems:
        raise InputError(problems)


def label_count(data: GraphDataModule, dataset: str, split: str, prop: str) -> int:
    """Labelled entries of a property in one split."""
    store = data.stores[dataset]
    if prop not in store.label_counts or split not in data.splits(dataset):
        return 0
    return int(np.sum(store.label_counts[prop][data.graphs(dataset, split).rows]))  # type: ignore[arg-type]


def make_plan(recipe: Recipe, data: GraphDataModule, *, start: str | None) -> Plan:
    """Build the model and what trains it.

    Args:
        recipe: Checked.
        data: Set up.
        start: The model to start from; None for random weights.

    Raises:
        InputError: A head, element or initialisation that does not fit; labels that the model could not give.
    """
    heads = with_charges(heads_for(recipe.tasks, recipe.objectives), recipe.model)
    check_dispersion(recipe, data.resolved)
    check_periodicity(recipe, data, heads)
    check_sizes(data, heads)
    validation = validation_of(recipe, data)
    config = ModelConfig(
        backbone=recipe.model.backbone,
        heads=heads,
        elements=_elements(recipe, data),
        levels=data.levels,
        electrostatics=recipe.model.electrostatics,
        repulsion=recipe.model.repulsion,
        dispersion=recipe.model.dispersion,
    )
    torch.manual_seed(recipe.seed)
    model = FoundationModel(config)
    graphs = scaling_sample(data, learnt(recipe))
    check_neighbors(graphs, cutoff=model.cutoff)
    scaling = fit_scaling(graphs, properties=model.properties, levels=data.levels, isolated_atoms=_isolated_atoms(data))
    chosen = np.unique(np.linspace(0, len(graphs) - 1, min(CALIBRATION_STRUCTURES, len(graphs))).round().astype(int))
    model.prepare(scaling, collate([graphs[index] for index in chosen]))
    report = None
    if recipe.init is not None and start is not None:
        source = load(start)
        report = initialise_from(model, source, keep=recipe.init.keep, reset=recipe.init.reset)
        complete_carried_references(model, source, graphs, report=report, isolated_atoms=_isolated_atoms(data))
    if recipe.init is None or start is not None:
        check_references(recipe, data, model.scaling)
    beside = local_charges(recipe, heads)
    module = FoundationModule(
        model,
        build_objectives({**_objective_configs(recipe), **beside}, model=model, dataset_names=data.dataset_names),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        ema=recipe.ema,
        dataset_names=data.dataset_names,
        seed=recipe.seed,
        compilation=recipe.compile,
        activation_checkpointing=recipe.activation_checkpointing,
    )
    return Plan(
        recipe=recipe,
        data=data,
        model=model,
        module=module,
        scaling=scaling,
        init=report,
        validation=validation,
        local_charges=beside,
    )


def scaling_sample(data: GraphDataModule, wanted: Mapping[str, Sequence[str]]) -> list[AtomGraph]:
    """Training structures to measure scales on: all, or evenly spaced ones with each labelled element among them.

    Args:
        data: Set up.
        wanted: Data set -> properties that are learnt from it. Other labels are left out; those that a learnt property
            is the derivative of stay.
    """
    graphs: list[AtomGraph] = []
    for name in data.dataset_names:
        if "train" not in data.splits(name):
            continue
        bases = (get_property(prop).derived_from for prop in wanted[name])
        properties = {*wanted[name], *(base for base in bases if base is not None)}
        part = data.graphs(name, "train")
        chosen = np.arange(len(part))
        if len(part) > SCALING_STRUCTURES:
            place = {int(row): index for index, row in enumerate(part.rows)}
            firsts = [0]
            for prop in properties:
                rows = labelled_rows(data, name, "train", prop)
                first = _first_with_each_element([part.store.formulas[int(row)] for row in rows])
                firsts += [place[int(rows[index])] for index in first]
            chosen = np.unique([*np.linspace(0, len(part) - 1, SCALING_STRUCTURES).round().astype(int), *firsts])
        graphs += [_with_labels(part[int(index)], properties) for index in chosen]
    return graphs


def _with_labels(graph: AtomGraph, properties: set[str]) -> AtomGraph:
    """The graph with some of its labels; the data module keeps it with all."""
    if graph.targets.keys() <= properties:
        return graph
    shallow = copy.copy(graph)
    shallow.targets = {name: values for name, values in graph.targets.items() if name in properties}
    shallow.masks = {name: mask for name, mask in graph.masks.items() if name in properties}
    return shallow


def _first_with_each_element(formulas: Sequence[str]) -> list[int]:
    """Indices of the structures in which an element occurs for the first time."""
    seen: set[str] = set()
    first = []
    for index, formula in enumerate(formulas):
        elements = elements_in({formula})
        if not elements <= seen:
            seen |= elements
            first.append(index)
    return first


def _elements(recipe: Recipe, data: GraphDataModule) -> tuple[int, ...]:
    unknown = [symbol for symbol in recipe.model.elements if symbol not in atomic_numbers]
    if unknown:
        raise InputError(f"model.elements: got {unknown}; allowed: element symbols")
    return tuple(sorted({*data.elements, *(atomic_numbers[symbol] for symbol in recipe.model.elements)}))


def _isolated_atoms(data: GraphDataModule) -> dict[str, dict[int, float]]:
    """Level of theory -> atomic number -> eV, of all data sets that state them.

    Raises:
        InputError: Two data sets of one level state different energies for an element.
    """
    found: dict[str, dict[int, float]] = {}
    for name, dataset in data.resolved.items():
        if dataset.isolated_atoms is None:
            continue
        known = found.setdefault(dataset.level_of_theory, {})
        for number, energy in read_isolated_atoms(dataset).items():
            if abs(known.setdefault(number, energy) - energy) > 1e-6:
                raise InputError(
                    f"data '{name}': isolated_atoms: element {number} has {energy} eV, another data set of level "
                    f"'{dataset.level_of_theory}' says {known[number]} eV"
                )
    return found


def _objective_configs(recipe: Recipe) -> Mapping[str, Any]:
    tasks = {
        name: SupervisedConfig(
            property=get_property(task.property).name, data=task.data, weight=task.weight, loss=task.loss
        )
        for name, task in recipe.tasks.items()
    }
    return {**tasks, **recipe.objectives}
