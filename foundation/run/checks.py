"""What data make impossible, found before compute is spent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Int

from foundation.data.card import ResolvedDataset
from foundation.data.graph import AtomGraph
from foundation.data.module import GraphDataModule, Split
from foundation.electrostatics.charges import EquilibrationConfig
from foundation.errors import InputError
from foundation.heads import HeadConfig
from foundation.heads.charges import ChargesConfig
from foundation.properties import Property, get_property
from foundation.recipe import Recipe
from foundation.run.ranks import num_ranks
from foundation.scaling import Scaling, has_references

__all__ = [
    "Validation",
    "charged_cells_in",
    "check_neighbors",
    "check_periodicity",
    "check_ranks",
    "check_references",
    "check_sizes",
    "labelled_rows",
    "learnt",
    "validation_of",
]

_ALL_AXES = 7
_ELEMENT = re.compile(r"[A-Z][a-z]?")


@dataclass(frozen=True)
class Validation:
    """What the validation loss is made of.

    Attributes:
        counts: Whether anything is compared on validation structures.
        without_labels: Tasks and objectives that are not.
    """

    counts: bool
    without_labels: tuple[str, ...]


def check_ranks(trainer: Mapping[str, Any], data: GraphDataModule) -> None:
    """Refuse more processes than there are training structures, or batches of them.

    Args:
        trainer: The recipe's section `trainer`.
        data: Set up.

    Raises:
        InputError: A process would have nothing to do, and the others would wait for it.
    """
    ranks = num_ranks(trainer)
    structures = sum(len(data.graphs(name, "train")) for name in data.dataset_names if "train" in data.splits(name))
    if structures < ranks:
        raise InputError(
            f"trainer.devices, trainer.num_nodes: {ranks} processes for {structures} training structures; "
            f"allowed: at most {structures}"
        )
    if structures:
        data.training_batches(num_ranks=ranks)


def learnt(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Data set -> properties that a task learns from it."""
    found: dict[str, list[str]] = {name: [] for name in recipe.data}
    for task in recipe.tasks.values():
        for dataset in task.data:
            found[dataset].append(task.property)
    return {name: tuple(dict.fromkeys(properties)) for name, properties in found.items()}


def labelled_rows(data: GraphDataModule, dataset: str, split: Split, prop: str) -> Int[np.ndarray, " rows"]:
    """Rows of a data set's store that are in a split and carry a property; none if it has no such split."""
    store = data.stores[dataset]
    if prop not in store.label_counts or split not in data.splits(dataset):
        return np.zeros(0, dtype=np.int64)
    rows = data.graphs(dataset, split).rows
    return rows[store.label_counts[prop][rows] > 0]


def elements_in(formulas: set[str]) -> set[str]:
    """Symbols that occur in formulas."""
    return {symbol for formula in formulas for symbol in _ELEMENT.findall(formula)}


def check_references(
    recipe: Recipe, data: GraphDataModule, scaling: Scaling, *, known_elsewhere: frozenset[str] = frozenset()
) -> None:
    """Refuse labelled structures with elements whose reference (energy of an atom, …) is unknown: all would be NaN.

    Args:
        recipe: Checked.
        data: Set up.
        scaling: Measured, and taken over from where the model starts.
        known_elsewhere: Properties whose references will come from a model that is yet to be trained.

    Raises:
        InputError: Each task, data set and split with such elements, and what to do.
    """
    problems = []
    for name, task in recipe.tasks.items():
        prop = get_property(task.property)
        base = prop if prop.derived_from is None else get_property(prop.derived_from)
        if not has_references(base) or base.name in known_elsewhere:
            continue
        table = scaling.references(base.name).isfinite()
        for dataset in task.data:
            known = table[data.levels.index(data.resolved[dataset].level_of_theory)]
            if prop.derived_from is not None and not bool(known[1:].any()):
                continue  # learnt from derivatives alone, which no constant of an element changes
            for split in data.splits(dataset):
                rows = labelled_rows(data, dataset, split, prop.name)
                found = elements_in({data.stores[dataset].formulas[int(row)] for row in rows})
                unknown = sorted(symbol for symbol in found if not known[atomic_numbers[symbol]])
                if unknown:
                    problems.append(_unknown_reference(name, base, dataset, split, unknown, data))
    if problems:
        raise InputError(problems)


def _unknown_reference(
    task: str, base: Property, dataset: str, split: str, symbols: list[str], data: GraphDataModule
) -> str:
    level = data.resolved[dataset].level_of_theory
    ways = f"{'isolated_atoms of the data set for them, ' if base.name == 'energy' else ''}another split"
    return (
        f"tasks.{task}: data '{dataset}', split {split}: holds {' '.join(symbols)}, but no training label of "
        f"'{base.name}' at level '{level}' holds them, so their contribution is unknown; allowed: {ways}, or leaving "
        "these structures out"
    )


def check_periodicity(recipe: Recipe, data: GraphDataModule, heads: Mapping[str, HeadConfig]) -> None:
    """Refuse labels that a periodic or an isolated structure does not have.

    Raises:
        InputError: Each task with dipoles of a cell from charges or stress of what does not fill space.
    """
    problems = []
    from_charges = {name for head in heads.values() if head.kind == "charges" for name in head.predicts}
    from_charges -= {"partial_charges"}
    for name, task in recipe.tasks.items():
        for dataset in task.data:
            axes = _axes_of_labelled(data, dataset, task.property)
            if task.property == "stress" and bool((axes != _ALL_AXES).any()):
                problems.append(
                    f"tasks.{name}: data '{dataset}': {int((axes != _ALL_AXES).sum())} structures with 'stress' are "
                    "not periodic in all three directions; allowed: stress of such as are, or the data set without it"
                )
            if task.property in from_charges and bool((axes != 0).any()):
                problems.append(
                    f"tasks.{name}: data '{dataset}': {int((axes != 0).sum())} structures are periodic, where charges "
                    f"give no '{task.property}'; allowed: head: {{kind: tensor}}"
                )
    if problems:
        raise InputError(problems)


def check_dispersion(recipe: Recipe, resolved: Mapping[str, ResolvedDataset]) -> None:
    """Refuse to add dispersion to what is learnt from labels that contain it already, or may.

    Args:
        recipe: Checked.
        resolved: What each of its data sets says.

    Raises:
        InputError: Each data set with such energies, forces or stresses, and whether others lack it.
    """
    if recipe.model.dispersion is None:
        return
    names = [
        name
        for name, properties in learnt(recipe).items()
        if any("energy" in (prop, get_property(prop).derived_from) for prop in properties)
    ]
    lacking = [name for name in names if resolved[name].dispersion == "lacking"]
    beside = f", as those of {', '.join(repr(name) for name in lacking)} do" if lacking else ""
    problems = []
    for name in names:
        stated, level = resolved[name].dispersion, resolved[name].level_of_theory
        if stated == "included":
            problems.append(
                f"model.dispersion: data '{name}': got dispersion: included (level of theory '{level}'), so it would "
                f"count twice; allowed: model.dispersion: null, or only labels that lack it{beside}"
            )
        elif stated == "unknown":
            problems.append(
                f"model.dispersion: data '{name}': got dispersion: unknown (level of theory '{level}'); allowed: "
                f"data.{name}.dispersion: lacking, if its energies have none, or model.dispersion: null"
            )
    if problems:
        raise InputError(problems)


def _axes_of_labelled(data: GraphDataModule, dataset: str, prop: str) -> Int[np.ndarray, " rows"]:
    axes = data.stores[dataset].periodic_axes()
    return np.concatenate([axes[labelled_rows(data, dataset, split, prop)] for split in data.splits(dataset)])


def check_sizes(data: GraphDataModule, heads: Mapping[str, HeadConfig]) -> None:
    """Refuse structures that are too large for a dense solve of their charges.

    Raises:
        InputError: Each data set with such structures.
    """
    problems = []
    for name, head in heads.items():
        if not isinstance(head, ChargesConfig) or not isinstance(head.model, EquilibrationConfig):
            continue
        for dataset in data.dataset_names:
            largest = max(int(data.graphs(dataset, split).num_atoms.max()) for split in data.splits(dataset))
            if largest > head.model.max_atoms:
                problems.append(
                    f"head '{name}': charge model 'qeq' solves for structures of up to {head.model.max_atoms} atoms "
                    f"(max_atoms), data '{dataset}' has one of {largest}; allowed: charge model 'redistributed', a "
                    "larger limit (memory grows as its square, time as its cube), or data without these structures"
                )
    if problems:
        raise InputError(problems)


def check_neighbors(graphs: Sequence[AtomGraph], *, cutoff: float) -> None:
    """Refuse a cutoff within which no atom of any structure has a neighbour: every atom would be alone.

    Args:
        graphs: Training structures with edges up to `cutoff`.
        cutoff: Å.

    Raises:
        InputError: There is not one edge, although some structure has several atoms.
    """
    largest = max(graph.positions.shape[0] for graph in graphs)
    if largest > 1 and not any(len(graph.senders) for graph in graphs):
        raise InputError(
            f"model.backbone.cutoff: got {cutoff:g} Å, within which no atom of the {len(graphs)} training structures "
            "that were looked at has a neighbour; allowed: longer than their bonds, commonly 4 to 6 Å"
        )


def charged_cells_in(data: GraphDataModule) -> dict[str, Counter[int]]:
    """Data set -> number of directions -> how many of its structures repeat in so many and carry a net charge."""
    found: dict[str, Counter[int]] = {}
    for dataset in data.dataset_names:
        store = data.stores[dataset]
        rows = np.concatenate([data.graphs(dataset, split).rows for split in data.splits(dataset)])
        axes = store.periodic_axes()[rows]
        charged = axes[(axes != 0) & (store.total_charges()[rows] != 0)]
        if len(charged):
            found[dataset] = Counter(int(bits).bit_count() for bits in charged)
    return found


def validation_of(recipe: Recipe, data: GraphDataModule) -> Validation:
    """Which tasks and objectives the validation loss counts.

    Raises:
        InputError: None, but early stopping goes by it.
    """
    counts: dict[str, bool] = {}
    for name, task in recipe.tasks.items():
        counts[name] = any(len(labelled_rows(data, dataset, "val", task.property)) for dataset in task.data)
    for name, objective in recipe.objectives.items():
        datasets = data.dataset_names if objective.data is None else objective.data
        counts[name] = any("val" in data.splits(dataset) for dataset in datasets)
    found = Validation(any(counts.values()), tuple(name for name, is_judged in counts.items() if not is_judged))
    if recipe.early_stopping is not None and not found.counts:
        raise InputError("early_stopping: no validation structure has a label; give some, or set it to null")
    return found
