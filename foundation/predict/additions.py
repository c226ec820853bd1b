"""What predictions add to what a model gives for its level of theory, and what they say about charged cells."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics import charged_cells
from foundation.physics import D3Dispersion

__all__ = ["add_dispersion", "say_background"]

_CHANGED = ("energy", "forces", "stress")


def add_dispersion(outputs: dict[str, Tensor], graph: AtomGraph, dispersion: D3Dispersion | None) -> dict[str, Tensor]:
    """Energies, forces and stress with the dispersion that the model's labels lack.

    Args:
        outputs: Of the model, for this graph.
        graph: A batch.
        dispersion: None for nothing.

    Raises:
        InputError: An element without coefficients.
    """
    if dispersion is None or not any(name in outputs for name in _CHANGED):
        return outputs
    with torch.no_grad():
        added = dispersion(graph)
    terms = {"energy": added.energy, "forces": added.forces, "stress": added.stress}
    return {name: values + terms[name].to(values) if name in terms else values for name, values in outputs.items()}


def say_background(graphs: Sequence[AtomGraph], *, names: Collection[str]) -> None:
    """Warn of crystals with a net charge, whose energy depends on a convention.

    Args:
        graphs: Single structures.
        names: Properties that are predicted.
    """
    if not any(name in names for name in _CHANGED):
        return
    count = sum(bool(charged_cells(graph).any()) for graph in graphs)
    if count:
        warnings.warn(
            f"{count} of {len(graphs)} structures are periodic in three directions and carry a net charge: a uniform "
            "background of charge neutralises each cell, and energies of cells of different size are not comparable",
            stacklevel=3,
        )
