"""Predictions for structures: checked, batched by size, in the order given."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from foundation.data.graph import AtomGraph, collate
from foundation.data.neighbors import with_neighbors
from foundation.electrostatics import CellCautions
from foundation.elements import element_names
from foundation.errors import InputError
from foundation.physics import D3Dispersion
from foundation.predict.additions import add_dispersion, say_charged_cells, say_short_cells
from foundation.predict.structures import Structure
from foundation.properties import PROPERTIES, get_property
from foundation.scaling import Scaling, has_references

MAX_ATOMS_IN_BATCH = 2048
MAX_EDGES_IN_BATCH = 60_000
"""About 2 GB with forces at 64 channels."""
MAX_STRUCTURES_IN_BATCH = 64

ASKED_BY_NAME_ONLY = frozenset({"position_noise", "masked_element", "missing_charge", "born_charges"})
"""Left out unless asked for: pretraining's own targets mean nothing for a clean structure; what charges miss is of
interest to those who look for it; Born charges cost three more derivatives."""
_OF_A_CELL = frozenset({"stress"})
_OF_A_MOLECULE = frozenset({"handedness", "site_of_metabolism"})
"""Mean nothing for a crystal; left out there unless asked for."""
_OPEN_IN_A_CELL = frozenset({"dipole", "quadrupole", "polarizability"})
"""Some heads cannot define them in a periodic cell and give NaN; they are left out there unless asked for."""

Values = dict[str, np.ndarray]


@runtime_checkable
class ModelConfigLike(Protocol):
    """What is read of a model's config."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model has seen."""
        ...

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of theory, in the order of `level_index`."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """What is asked of a model; `foundation.model.FoundationModel` has it."""

    @property
    def config(self) -> ModelConfigLike:
        """Elements and levels of theory."""
        ...

    @property
    def cutoff(self) -> float:
        """Å."""
        ...

    @property
    def properties(self) -> frozenset[str]:
        """What it can predict."""
        ...

    @property
    def scaling(self) -> Scaling:
        """Reference energies, level by level."""
        ...

    @property
    def dispersion(self) -> D3Dispersion | None:
        """What its labels lack."""
        ...

    @property
    def has_electrostatics(self) -> bool:
        """Whether its charges interact, with each other and with an external field."""
        ...

    @property
    def cautions(self) -> CellCautions:
        """What is to be said of its predictions for periodic structures."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """Its weights: they tell the device."""
        ...

    def __call__(self, graph: AtomGraph, *, properties: Collection[str]) -> dict[str, Tensor]:
        """Predict in physical units; classifications as logits."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure.

    Attributes:
        structure: What it was made for, with its geometry.
        level_of_theory: That energies and charges are meant at.
        values: Property -> value in internal units, of the property's shape, atoms first where it is one an atom. A
            classification is a probability: `handedness` that of R, `site_of_metabolism` that of each atom.
        labels: `handedness` -> "R" or "S".
        rankings: `site_of_metabolism` -> heavy atoms, numbered from 0, most likely first.
    """

    structure: Structure
    level_of_theory: str
    values: Values
    labels: Mapping[str, str]
    rankings: Mapping[str, tuple[int, ...]]


def choose_level(model: Predictor, level: str | None) -> int:
    """The index of a level of theory.

    Raises:
        InputError: The model does not know it, or knows several and none was chosen.
    """
    levels = model.config.levels
    known = ", ".join(f"'{name}'" for name in levels)
    if level is None:
        if len(levels) == 1:
            return 0
        raise InputError(
            f"level of theory: not chosen; the model knows several: {known}; choose one (`level`, `--level`)"
        )
    if level not in levels:
        raise InputError(f"level of theory: got '{level}'; allowed: {known}")
    return levels.index(level)


def choose_properties(model: Predictor, properties: Collection[str] | None) -> frozenset[str]:
    """The properties to predict: those asked for, else all that make sense for a clean structure.

    Raises:
        InputError: A property is unknown or the model does not predict it.
    """
    if properties is None:
        return model.properties - ASKED_BY_NAME_ONLY
    missing = sorted(get_property(name).name for name in properties if name not in model.properties)
    if missing:
        raise InputError(
            f"the model does not predict {', '.join(repr(name) for name in missing)}; "
            f"it predicts: {', '.join(sorted(model.properties))}"
        )
    return frozenset(properties)


def check_elements(model: Predictor, structures: Sequence[Structure]) -> None:
    """Refuse elements that the model has never seen.

    Raises:
        InputError: All structures that hold some, each with its elements.
    """
    seen = set(model.config.elements)
    problems = []
    for structure in structures:
        unseen = sorted(set(structure.atomic_numbers.tolist()) - seen)
        if unseen:
            problems.append(
                f"{structure.where}: the model has never seen {element_names(unseen)}; it knows {element_names(seen)}"
            )
    if problems:
        raise InputError(problems)


def predict_structures(
    model: Predictor,
    structures: Sequence[Structure],
    *,
    properties: Collection[str] | None = None,
    level: str | None = None,
) -> list[Prediction]:
    """Predict for every structure, in order.

    Args:
        model: In evaluation mode or not, it is run without dropout or gradients of weights either way.
        structures: Any mixture of molecules and crystals.
        properties: What to predict; None takes everything that is defined for the structure.
        level: Level of theory; needed where the model knows several.

    Raises:
        InputError: An unseen element, an unknown or unchosen level, a property that the model does not predict or that
            is not defined for a structure, or a structure that is not one.
    """
    level_index = choose_level(model, level)
    wanted = choose_properties(model, properties)
    check_elements(model, structures)
    asked_by_name = properties is not None
    wanted = _with_references(model, structures, wanted, level_index=level_index, asked_by_name=asked_by_name)
    graphs, problems = [], []
    for structure in structures:
        try:
            if asked_by_name and wanted & _OF_A_CELL and not structure.pbc.all():
                raise InputError(f"{structure.where}: stress is defined for cells periodic in three directions only")
            graphs.append(with_neighbors(structure.graph(level_index=level_index), model.cutoff, where=structure.where))
        except InputError as error:
            problems += error.problems
    if not model.has_electrostatics:
        problems += [
            f"{structure.where}: an external field is stated; the model has no electrostatics for it to act on; "
            "allowed: no field, or a model trained with model.electrostatics"
            for structure in structures
            if structure.external_field is not None and np.any(structure.external_field)
        ]
    if problems:
        raise InputError(problems)
    say_charged_cells(graphs, properties=wanted, cautions=model.cautions)
    if "born_charges" in wanted and model.cautions.nearest_images:
        say_short_cells(graphs, names=[structure.where for structure in structures], cutoff=model.cutoff)
    predictions = []
    for first, last in _batches(graphs):
        chosen = structures[first:last]
        names = wanted if asked_by_name else wanted - _undefined_for(chosen[0])
        values = predict_batch(model, collate(graphs[first:last]), properties=names)
        predictions += [
            _prediction(structure, model.config.levels[level_index], one, asked_by_name=asked_by_name)
            for structure, one in zip(chosen, values, strict=True)
        ]
    return predictions


def predict_batch(model: Predictor, batch: AtomGraph, *, properties: Collection[str]) -> list[Values]:
    """Predict for a batch on the model's device; one dict a graph, dispersion added, classifications still logits."""
    device = next(iter(model.parameters())).device
    sizes = batch.num_atoms_per_graph.tolist()
    with torch.no_grad():
        outputs = add_dispersion(model(batch.to(device), properties=properties), batch, model.dispersion)
    values: list[Values] = [{} for _ in sizes]
    for name, output in outputs.items():
        array = output.detach().double().cpu()
        parts = array.split(sizes) if PROPERTIES[name].level == "atom" else array.unbind(0)
        for one, part in zip(values, parts, strict=True):
            one[name] = part.numpy()
    return values


def _with_references(
    model: Predictor,
    structures: Sequence[Structure],
    wanted: frozenset[str],
    *,
    level_index: int,
    asked_by_name: bool,
) -> frozenset[str]:
    """Leave out what the model never had labels of at this level of theory, with what derives from it.

    Raises:
        InputError: Such a property was asked for by name, or an element has no reference value at this level.
    """
    level = model.config.levels[level_index]
    problems = []
    for name in sorted(wanted):
        if not has_references(PROPERTIES[name]):
            continue
        row = model.scaling.references(name)[level_index].cpu()
        known = {number for number in model.config.elements if not torch.isnan(row[number])}
        if not known:
            if asked_by_name:
                problems.append(f"'{name}': the model had no labels of it at level of theory '{level}'")
            wanted = frozenset(one for one in wanted if one != name and PROPERTIES[one].derived_from != name)
            continue
        for structure in structures:
            unknown = sorted(set(structure.atomic_numbers.tolist()) - known)
            if unknown:
                names = element_names(unknown)
                problems.append(
                    f"{structure.where}: '{name}': the model knows no reference value of {names} at level of theory "
                    f"'{level}'; choose another level or ask for other properties"
                )
    if problems:
        raise InputError(problems)
    return wanted


def _has_one_stereocentre(structure: Structure) -> bool:
    """Whether R and S mean something; taken on trust where the bonds are not known."""
    if structure.molecule is None:
        return True
    centres = Chem.FindMolChiralCenters(structure.molecule, includeUnassigned=True, useLegacyImplementation=False)
    return len(centres) == 1


def _undefined_for(structure: Structure) -> frozenset[str]:
    if structure.pbc.any():
        return _OF_A_MOLECULE | (frozenset() if structure.pbc.all() else _OF_A_CELL)
    return _OF_A_CELL


def _batches(graphs: Sequence[AtomGraph]) -> Iterator[tuple[int, int]]:
    """Cut into runs that fit the bounds and agree on which directions repeat."""
    first = atoms = edges = 0
    for index, graph in enumerate(graphs):
        more_atoms, more_edges = graph.positions.shape[0], graph.receivers.shape[0]
        full = (
            atoms + more_atoms > MAX_ATOMS_IN_BATCH
            or edges + more_edges > MAX_EDGES_IN_BATCH
            or index - first >= MAX_STRUCTURES_IN_BATCH
            or not torch.equal(graph.pbc, graphs[first].pbc)
        )
        if full and index > first:
            yield first, index
            first, atoms, edges = index, 0, 0
        atoms, edges = atoms + more_atoms, edges + more_edges
    if graphs:
        yield first, len(graphs)


def _prediction(structure: Structure, level_of_theory: str, values: Values, *, asked_by_name: bool) -> Prediction:
    labels, rankings = {}, {}
    physical: Values = {}
    for name, value in values.items():
        prop = PROPERTIES[name]
        if name == "handedness" and not _has_one_stereocentre(structure):
            if not asked_by_name:
                continue
            raise InputError(f"{structure.where}: '{name}': defined for molecules with exactly one stereocentre only")
        if not np.isfinite(value).all():
            if structure.pbc.any() and name in _OPEN_IN_A_CELL:
                if not asked_by_name:
                    continue
                raise InputError(f"{structure.where}: '{name}': the model's head defines it for free molecules only")
            raise InputError(f"{structure.where}: '{name}': the prediction is not a finite number")
        if prop.kind == "classification" and name != "masked_element":
            value = np.asarray(1.0 / (1.0 + np.exp(-value)))
        physical[name] = value
        if name == "handedness":
            labels[name] = "R" if value >= 0.5 else "S"
        if name == "site_of_metabolism":
            heavy = np.flatnonzero(structure.atomic_numbers > 1)
            order = np.argsort(-value[heavy], kind="stable")
            rankings[name] = tuple(int(atom) for atom in heavy[order])
    return Prediction(
        structure=structure, level_of_theory=level_of_theory, values=physical, labels=labels, rankings=rankings
    )
