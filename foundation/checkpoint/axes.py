"""Which axes of which tensors stand for elements or levels of theory, so that their rows can move between models.

Two models may know other elements, or the same ones in another order: a row means what the model's config says, not
what its number is. A test sees to it that no tensor that grows with the elements or levels is missing here.
"""

from __future__ import annotations

from collections.abc import Hashable
from fnmatch import fnmatchcase
from typing import Literal

from foundation.backbones.equivariant import EquivariantConfig
from foundation.heads.masked_atom import MaskedAtomConfig
from foundation.model import ModelConfig

Axis = Literal["elements", "elements_and_mask", "atomic_numbers", "levels"]
"""`elements` in the order of the config; `elements_and_mask` with one more row for hidden atoms; `atomic_numbers` with
a row for every number from 0 to 118, of which only the config's elements mean anything; `levels` of theory in the order
of the config."""
Axes = tuple[Axis | None, ...]

_AXES: dict[str, Axes] = {
    "backbone.conditioning.element": ("elements_and_mask", None),
    "backbone.conditioning.level": ("levels", None),
    "backbone.neighbor_embedding.embedding.weight": ("elements_and_mask", None),
    "backbone.layers.*.element_scale": ("elements_and_mask", None, None),
    "backbone.layers.*.element_pairs.*": ("elements_and_mask", None),
    "backbone.layers.*.level_scale": ("levels", None, None),
    "scaling.references_*": ("levels", "atomic_numbers"),
}
_OF_LEVELS = (
    "backbone.trunk.layers.*.weight",
    "backbone.layers.*.weight",
    "backbone.layers.*.weights.*",
    *(f"{part}.*.{what}" for part in ("heads", "feedback") for what in ("weight", "bias")),
)
"""Linear maps: their first axis are levels of theory where these do not share all weights."""
_MASKED_ATOM_AXES: dict[str, Axes] = {
    "readout.outer.weight": (None, "elements"),
    "readout.outer.bias": ("elements",),
    "readout.direct.weight": (None, "elements"),
}


def axes_of(name: str, num_axes: int, config: ModelConfig) -> Axes:
    """What each axis of tensor `name` stands for; None for an ordinary one."""
    if apart(config) and of_levels(name):
        return ("levels", *_other_axes(name, num_axes - 1, config))
    return _other_axes(name, num_axes, config)


def _other_axes(name: str, num_axes: int, config: ModelConfig) -> Axes:
    if name.startswith("heads."):
        _, head, rest = name.split(".", 2)
        known = _MASKED_ATOM_AXES if isinstance(config.heads.get(head), MaskedAtomConfig) else {}
        return known.get(rest, (None,) * num_axes)
    for pattern, axes in _AXES.items():
        if fnmatchcase(name, pattern):
            assert len(axes) == num_axes, f"tensor '{name}' has {num_axes} axes, its entry in the table {len(axes)}"
            return axes
    return (None,) * num_axes


def of_levels(name: str) -> bool:
    """Whether a tensor holds weights that levels of theory may have each."""
    return any(fnmatchcase(name, pattern) for pattern in _OF_LEVELS)


def apart(config: ModelConfig) -> bool:
    """Whether levels of theory have weights each."""
    return isinstance(config.backbone, EquivariantConfig) and config.backbone.level_sharing < 1


def rows_of(axis: Axis, config: ModelConfig) -> dict[Hashable, int]:
    """Where the rows that mean something stand: element, "hidden atom" or level of theory -> row."""
    if axis == "levels":
        return {level: row for row, level in enumerate(config.levels)}
    if axis == "atomic_numbers":
        return {number: number for number in config.elements}
    rows: dict[Hashable, int] = {number: row for row, number in enumerate(config.elements)}
    return {**rows, "hidden atom": len(config.elements)} if axis == "elements_and_mask" else rows


def scaled_property(name: str) -> str | None:
    """The property that a tensor `scaling.scale_…`, `.shift_…` or `.references_…` belongs to; None for all others."""
    if not name.startswith("scaling."):
        return None
    return name.removeprefix("scaling.").split("_", 1)[1]
