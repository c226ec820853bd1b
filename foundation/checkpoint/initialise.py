"""A model that starts from another: every tensor accounted for, and proof that nothing was lost on the way.

A tensor of the source or of the new model that finds no counterpart is refused unless a pattern names it, so a head can
never be reset, nor a part dropped, without someone having said so; nor can repulsion or dispersion change under
energies that are carried over. Afterwards both models predict for probe structures, and whatever both can predict from
carried-over weights has to agree.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from foundation.checkpoint.axes import apart, axes_of, of_levels, rows_of, scaled_property
from foundation.checkpoint.probe import ParityCheck, check_parity
from foundation.checkpoint.terms import changed_terms, check_terms, terms_of, without_repulsion
from foundation.config import nearest
from foundation.elements import element_names
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig
from foundation.properties import PROPERTIES


@dataclass(frozen=True)
class Extension:
    """A tensor of which some rows came from the source and others start afresh.

    Attributes:
        name: Of the tensor.
        new: Elements or levels of theory that the source did not know.
        dropped: Elements or levels of theory of the source that the new model does not know.
    """

    name: str
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class InitReport:
    """What became of every tensor.

    Attributes:
        loaded: Taken from the source whole.
        extended: Taken from the source for the elements and levels of theory that both know.
        new: Started afresh.
        skipped: Of the source, not used.
        new_elements: Atomic numbers that the source did not know: their weights start afresh.
        new_levels: Levels of theory that the source did not know: likewise.
        changed_terms: Repulsion or dispersion, where it is not the source's -> what it is and what it was.
        parity: Each property that had to agree, and by how much it differed; without repulsion where that changed.
        unchecked: Property -> why its predictions need not agree.
    """

    loaded: tuple[str, ...]
    extended: tuple[Extension, ...]
    new: tuple[str, ...]
    skipped: tuple[str, ...]
    new_elements: tuple[int, ...]
    new_levels: tuple[str, ...]
    changed_terms: dict[str, str]
    parity: tuple[ParityCheck, ...]
    unchecked: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `summary.json`."""
        return {
            "loaded": list(self.loaded),
            "extended": {one.name: {"new": list(one.new), "dropped": list(one.dropped)} for one in self.extended},
            "new": list(self.new),
            "skipped": list(self.skipped),
            "new_elements": [chemical_symbols[number] for number in self.new_elements],
            "new_levels": list(self.new_levels),
            "changed_terms": dict(self.changed_terms),
            "parity": {one.property: {"largest": one.largest, "difference": one.difference} for one in self.parity},
            "unchecked": dict(self.unchecked),
        }

    def describe(self) -> str:
        """A few lines for people; all names are in `to_dict`."""
        lines = [
            f"{len(self.loaded) + len(self.extended)} tensors from the source, {len(self.new)} new, "
            f"{len(self.skipped)} of the source not used"
        ]
        lines += [f"  new: {name}" for name in self.new]
        lines += [f"  not used: {name}" for name in self.skipped]
        if self.new_elements:
            lines.append("  elements that start afresh: " + element_names(self.new_elements))
        if self.new_levels:
            lines.append("  levels of theory that start afresh: " + ", ".join(self.new_levels))
        lines += [f"  {name}, which energies change with: {what}" for name, what in self.changed_terms.items()]
        lines += [
            f"  step 0: {one.property} as predicted by the source (largest {one.largest:.3g}, "
            f"difference {one.difference:.1e}{self._apart_from(one.property)})"
            for one in self.parity
        ]
        lines += [f"  step 0: {name} not compared: {why}" for name, why in self.unchecked.items()]
        return "\n".join(lines)

    def _apart_from(self, name: str) -> str:
        """Which changed terms the comparison of a property left out."""
        of_energy = "energy" in (name, PROPERTIES[name].derived_from)
        return f", without {' and '.join(self.changed_terms)}" if of_energy and self.changed_terms else ""


def initialise_from(
    model: FoundationModel,
    source: FoundationModel,
    *,
    keep: Sequence[str] = ("*",),
    reset: Sequence[str] = (),
) -> InitReport:
    """Copy the weights of `source` into `model`, in place.

    A tensor is carried over if its name matches a pattern of `keep` and none of `reset` (shell patterns: `backbone.*`,
    `heads.energy.*`). One that should be carried over but exists on one side only, or in another shape, is an error.
    Tensors with rows for elements or levels of theory are carried over row by row, whatever the order; rows that the
    source does not have keep the value they have in `model` (so set its scaling first). The scale and the references of
    a property go with its head. Repulsion and dispersion, which have no tensors, have to be the source's wherever its
    energies are carried over, unless `reset` names them as `repulsion` and `dispersion`.

    Args:
        model: Freshly built, its scaling set for its own data.
        source: As `load` gives it.
        keep: Names to carry over.
        reset: Names to start afresh, stronger than `keep`; terms of the energy that may differ.

    Raises:
        InputError: Every tensor that is neither carried over nor named, every term of the energy that differs unnamed,
            every pattern that matches nothing, or predictions that differ from the source's at step 0; `model` is then
            unchanged.
    """
    ours, theirs = model.state_dict(), source.state_dict()
    terms = terms_of(model.config, source.config)
    _check_patterns([*keep, *reset], names=ours.keys() | theirs.keys() | terms)
    named = {name for name in ours.keys() | theirs.keys() if _matches(name, keep) and not _matches(name, reset)}
    kept = {name for name in named if not _follows_a_fresh_head(name, model, source, named)}
    problems = [
        f"init: tensor '{name}' is new: the source has none of that name; name it under `reset` to start it afresh"
        for name in sorted(kept & (ours.keys() - theirs.keys()))
    ]
    problems += [
        f"init: tensor '{name}' of the source has no place in the new model; name it under `reset` to leave it behind"
        for name in sorted(kept & (theirs.keys() - ours.keys()))
    ]
    changed = changed_terms(model.config, source.config)
    if not _is_fresh("energy", model, source, named):
        problems += check_terms(changed, named={term for term in terms if _matches(term, reset)})
    state, loaded, extended = dict(ours), [], []
    for name in sorted(kept & ours.keys() & theirs.keys()):
        try:
            state[name], extension = _carry_over(name, ours[name], theirs[name], model.config, source.config)
        except InputError as error:
            problems += error.problems
            continue
        if extension is None:
            loaded.append(name)
        else:
            extended.append(extension)
    if problems:
        raise InputError(problems)
    before = {name: value.clone() for name, value in ours.items()}
    model.load_state_dict(state)
    carried = {*loaded, *(one.name for one in extended)}
    try:
        with without_repulsion(model, source, when="repulsion" in changed):
            parity, unchecked = check_parity(model, source, carried=carried)
    except InputError:
        model.load_state_dict(before)
        raise
    if "scaling.references_energy" in carried:
        for level in set(model.config.levels) & set(source.config.levels):
            how = source.scaling.provenance.get(level, "not stated")
            model.scaling.provenance[level] = f"{how} (of the model that this one started from)"
    return InitReport(
        loaded=tuple(loaded),
        extended=tuple(extended),
        new=tuple(sorted(ours.keys() - carried)),
        skipped=tuple(sorted(theirs.keys() - carried)),
        new_elements=tuple(sorted(set(model.config.elements) - set(source.config.elements))),
        new_levels=tuple(level for level in model.config.levels if level not in source.config.levels),
        changed_terms=changed,
        parity=parity,
        unchecked=unchecked,
    )


def _follows_a_fresh_head(name: str, model: FoundationModel, source: FoundationModel, named: Collection[str]) -> bool:
    """Whether a scale or reference belongs to a property that only one model has or whose head is not carried over."""
    scaled = scaled_property(name)
    if scaled is None:
        return False
    return _is_fresh(PROPERTIES[scaled].derived_from or scaled, model, source, named)


def _is_fresh(base: str, model: FoundationModel, source: FoundationModel, named: Collection[str]) -> bool:
    """Whether only one model has a property that a head gives, or nothing of its head is carried over."""
    if base not in model.properties & source.properties:
        return True
    heads = [head for head, config in model.config.heads.items() if base in config.predicts]
    return not any(tensor.startswith(f"heads.{head}.") for head in heads for tensor in named)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], *, names: Collection[str]) -> None:
    problems = []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern, sorted(names))
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            problems.append(
                f"init: pattern '{pattern}' matches no tensor or term of the energy"
                f"{f'; nearest: {close!r}' if close else ''}; parts: {', '.join(parts)}"
            )
    if problems:
        raise InputError(problems)


def _carry_over(
    name: str, ours: Tensor, theirs: Tensor, config: ModelConfig, source: ModelConfig
) -> tuple[Tensor, Extension | None]:
    """The source's tensor in the new model's shape; rows that only the new model knows are left as they are."""
    axes, source_axes = axes_of(name, ours.ndim, config), axes_of(name, theirs.ndim, source)
    new: list[str] = []
    dropped: list[str] = []
    if of_levels(name) and (apart(config) or apart(source)):
        theirs = _for_levels(name, theirs, config, source)
        axes = source_axes = (None, *axes[1:]) if apart(config) else axes
        if apart(source):
            new += [level for level in config.levels if level not in source.levels]
            dropped += [level for level in source.levels if level not in config.levels]
    shapes_fit = ours.ndim == theirs.ndim and all(
        axis is not None or mine == other for axis, mine, other in zip(axes, ours.shape, theirs.shape, strict=True)
    )
    if not shapes_fit or axes != source_axes:
        raise InputError(
            f"init: tensor '{name}': the source's shape {tuple(theirs.shape)} does not fit {tuple(ours.shape)}; build "
            "the model as the source was, or name the tensor under `reset`"
        )
    result, carried = ours.clone(), theirs.to(ours.device, ours.dtype)
    targets: list[Tensor] = []
    for dimension, axis in enumerate(axes):
        if axis is None:
            targets.append(torch.arange(ours.shape[dimension]))
            continue
        mine, other = rows_of(axis, config), rows_of(axis, source)
        shared = [row for row in mine if row in other]
        targets.append(torch.tensor([mine[row] for row in shared], dtype=torch.int64))
        carried = carried.index_select(dimension, torch.tensor([other[row] for row in shared], dtype=torch.int64))
        new += [_label(row) for row in mine if row not in other]
        dropped += [_label(row) for row in other if row not in mine]
    if any(axes):
        where = torch.meshgrid(*targets, indexing="ij")
        # A reference energy that the source never had (NaN) does not overwrite one that the new data gave.
        result[where] = torch.where(carried.isnan(), result[where], carried)
    else:
        result = carried.clone()
    return result, Extension(name, tuple(new), tuple(dropped)) if new or dropped else None


def _for_levels(name: str, theirs: Tensor, config: ModelConfig, source: ModelConfig) -> Tensor:
    """The weights of a linear map for the levels of theory of the new model, if there each has its own.

    A level that the source does not know starts from the mean of those that it knows: the nearest to what they share.
    """
    if not apart(source):
        return theirs.expand(len(config.levels), *theirs.shape)
    rows = {level: theirs[row] for row, level in enumerate(source.levels)}
    found = [rows.get(level, theirs.mean(0)) for level in config.levels]
    if apart(config):
        return torch.stack(found)
    if len(found) > 1:
        raise InputError(
            f"init: tensor '{name}': the source has weights for each of {', '.join(source.levels)}; allowed: "
            "model.backbone.level_sharing below 1, or data of one level of theory"
        )
    return found[0]


def _label(row: Hashable) -> str:
    return chemical_symbols[row] if isinstance(row, int) else str(row)
