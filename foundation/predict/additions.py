"""What predictions add to what a model gives for its level of theory, and what they say about charged cells."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics import charged_cells, describe_charged
from foundation.physics import D3Dispersion

__all__ = ["add_dispersion", "say_charged_cells"]

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


def say_charged_cells(
    graphs: Sequence[AtomGraph], *, names: Collection[str], neutralised: bool, told_charge: bool
) -> None:
    """Warn of periodic structures with a net charge, whose energies depend on conventions and on the cell's size.

    Args:
        graphs: Single structures.
        names: Properties that are predicted.
        neutralised: Whether their unscreened charges interact.
        told_charge: Whether features depend on the total charge and spin of a whole structure.
    """
    by_convention = neutralised and any(name in names for name in _CHANGED)
    counts = Counter(int(graph.pbc.sum()) for graph in graphs if bool(charged_cells(graph).any()))
    if counts and (by_convention or told_charge):
        what = describe_charged(counts, by_convention=by_convention, told_charge=told_charge)
        warnings.warn(
            f"{counts.total()} of {len(graphs)} structures are periodic and carry a net charge: {what}", stacklevel=3
        )
