"""Proof at step 0: a model that starts from another predicts what the other predicts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation.checkpoint.axes import scaled_property
from foundation.config import to_dict
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES

_SPACING = 1.6
"""Å, of the grid that probe atoms are jittered about: closer than a van der Waals contact, further than a short
bond."""
_JITTER = 0.25
_ATOMS = 8
_MAX_PROBES = 12
_TOLERANCE = 1e-5
"""Relative to the largest value; the same weights on the same graphs differ by single precision's rounding at most."""
_ENERGY_TOLERANCE = 1e-8
"""Of energies, whose reference values may be thousands of eV and are added in double precision."""
_ENERGY_ROUNDING = 1e-4
"""eV; what single precision may do to the rest of the energy of a probe."""


@dataclass(frozen=True)
class ParityCheck:
    """How well a property of the probe structures agreed.

    Attributes:
        property: Its name.
        largest: Largest absolute value that the source predicts, internal units.
        difference: Largest absolute difference, internal units.
    """

    property: str
    largest: float
    difference: float


def check_parity(
    model: FoundationModel, source: FoundationModel, *, carried: Collection[str]
) -> tuple[tuple[ParityCheck, ...], dict[str, str]]:
    """Compare the predictions of both models for probe structures of shared elements and levels of theory.

    Args:
        model: The new one.
        source: The one it starts from.
        carried: Names of the tensors that were carried over.

    Returns:
        The properties that agree, and the others, each with why its predictions may differ.

    Raises:
        InputError: A property whose weights were all carried over is predicted differently: the models are built
            differently.
    """
    unchecked: dict[str, str] = {}
    for name in sorted(model.properties - source.properties):
        unchecked[name] = "the source does not predict it"
    for name in sorted(model.properties & source.properties):
        reason = _reason_to_differ(name, model, carried)
        if reason is not None:
            unchecked[name] = reason
    names = sorted((model.properties & source.properties) - unchecked.keys())
    elements = sorted(set(model.config.elements) & set(source.config.elements))
    levels = [level for level in model.config.levels if level in source.config.levels]
    if not elements or not levels:
        what = "elements" if not elements else "levels of theory"
        return (), {**unchecked, **dict.fromkeys(names, f"the models share no {what}")}
    checks = []
    for name, (largest, difference) in _compare(model, source, names=names, elements=elements, levels=levels).items():
        allowed = _TOLERANCE * largest
        if name == "energy":
            allowed = _ENERGY_TOLERANCE * largest + _ENERGY_ROUNDING
        if not difference <= allowed:
            raise InputError(
                f"init: with all of its weights from the source, '{name}' is predicted differently at step 0: by "
                f"{difference:.3g} {PROPERTIES[name].unit} of {largest:.3g}; {_config_difference(model, source)}"
            )
        checks.append(ParityCheck(property=name, largest=largest, difference=difference))
    return tuple(checks), unchecked


def _reason_to_differ(name: str, model: FoundationModel, carried: Collection[str]) -> str | None:
    """Why the predictions of a property that both models have need not agree; None if they must."""
    base = PROPERTIES[name].derived_from or name
    heads = {head for head, config in model.config.heads.items() if base in config.predicts}
    if base == "energy" and model.config.electrostatics is not None:
        heads |= {head for head, config in model.config.heads.items() if "partial_charges" in config.predicts}
    for tensor in model.state_dict():
        part = tensor.split(".")
        matters = part[1] in heads if part[0] == "heads" else scaled_property(tensor) in (None, base)
        if matters and tensor not in carried:
            return f"'{tensor}' starts afresh"
    return None


def _compare(
    model: FoundationModel,
    source: FoundationModel,
    *,
    names: Sequence[str],
    elements: Sequence[int],
    levels: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """Property -> largest absolute value and largest absolute difference over all probes and levels."""
    found = dict.fromkeys(names, (0.0, 0.0))
    for level in levels:
        for periodic in (False, True):
            asked = [name for name in names if periodic or name != "stress"]
            ours = _predict(model, elements, level, periodic=periodic, names=asked)
            theirs = _predict(source, elements, level, periodic=periodic, names=asked)
            for name in asked:
                mine, other = ours[name], theirs[name]
                if name == "masked_element":
                    mine = mine[:, [model.config.elements.index(number) for number in elements]]
                    other = other[:, [source.config.elements.index(number) for number in elements]]
                # What is not defined for a probe (the dipole of a cell) is NaN in both.
                same_gaps = torch.equal(mine.isnan(), other.isnan())
                difference = (mine - other).nan_to_num().abs().max().item() if same_gaps else float("inf")
                largest, worst = found[name]
                found[name] = max(largest, other.nan_to_num().abs().max().item()), max(worst, difference)
    return found


def _predict(
    model: FoundationModel, elements: Sequence[int], level: str, *, periodic: bool, names: Sequence[str]
) -> dict[str, Tensor]:
    batch = collate(
        [
            with_neighbors(probe, model.cutoff)
            for probe in _probes(elements, level_index=model.config.levels.index(level), periodic=periodic)
        ]
    )
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(batch.to(device), properties=names)
    model.train(training)
    return {name: value.detach().double().cpu() for name, value in outputs.items()}


def _probes(elements: Sequence[int], *, level_index: int, periodic: bool) -> list[AtomGraph]:
    """Small clusters of the elements, neutral and charged, closed- and open-shell; or one dense cell of them."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * _SPACING
    count = 1 if periodic else min(_MAX_PROBES, max(2, -(-len(elements) // _ATOMS)))
    probes = []
    for index in range(count):
        numbers = [elements[(index * _ATOMS + atom) % len(elements)] for atom in range(_ATOMS)]
        probes.append(
            build_graph(
                positions=grid + random.uniform(-_JITTER, _JITTER, grid.shape),
                atomic_numbers=numbers,
                total_charge=float(index % 3 - 1) if not periodic else 0.0,
                spin_multiplicity=1 + index % 2,
                cell=np.eye(3) * 2 * _SPACING + random.uniform(-0.1, 0.1, (3, 3)) if periodic else None,
                pbc=np.full(3, periodic),
                level_index=level_index,
                where=f"probe {index}",
            )
        )
    return probes


def _config_difference(model: FoundationModel, source: FoundationModel) -> str:
    """The settings of the two models that differ, apart from elements, levels and which heads there are."""
    ours, theirs = to_dict(model.config), to_dict(source.config)
    shared = ours["heads"].keys() & theirs["heads"].keys()
    for config in (ours, theirs):
        config["heads"] = {name: head for name, head in config["heads"].items() if name in shared}
        del config["elements"], config["levels"]
    flat, other = _flatten(ours), _flatten(theirs)
    different = [
        f"{key}: {flat.get(key)!r}, the source's {other.get(key)!r}"
        for key in sorted(flat.keys() | other.keys())
        if flat.get(key) != other.get(key)
    ]
    return "the models are configured alike" if not different else "model settings differ: " + "; ".join(different)


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: one
        for name, inner in value.items()
        for key, one in _flatten(inner, f"{prefix}.{name}".lstrip(".")).items()
    }
