"""What predictions add to what a model gives for its level of theory, and what they say of charged and short cells."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.derive import complete_axes
from foundation.electrostatics import CellCautions, charged_cells, describe_charged
from foundation.physics import D3Dispersion

__all__ = ["add_dispersion", "say_charged_cells", "say_short_cells"]

LONG_CELL = 2.0
"""Cutoffs of the model; Born charges are of infinite crystals only in cells longer than charges respond to."""
_CHANGED = ("energy", "forces", "stress")
_LISTED = 5
"""Structures that one warning names."""


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


def say_charged_cells(graphs: Sequence[AtomGraph], *, properties: Collection[str], cautions: CellCautions) -> None:
    """Warn of periodic structures with a net charge, whose energies depend on conventions and on the cell's size.

    Args:
        graphs: Single structures.
        properties: What is predicted.
        cautions: Of the model.
    """
    by_convention = cautions.by_convention and any(name in properties for name in _CHANGED)
    counts = Counter(int(graph.pbc.sum()) for graph in graphs if bool(charged_cells(graph).any()))
    what = describe_charged(counts, replace(cautions, by_convention=by_convention))
    if counts and what:
        warnings.warn(
            f"{counts.total()} of {len(graphs)} structures are periodic and carry a net charge: {what}", stacklevel=3
        )


def say_short_cells(graphs: Sequence[AtomGraph], *, names: Sequence[str], cutoff: float) -> None:
    """Warn of cells in which the nearest image, which Born charges are made of, is too near to be told from an atom.

    Args:
        graphs: Single structures.
        names: What to call each.
        cutoff: Of the model, Å.
    """
    needed = LONG_CELL * cutoff
    short = []
    for graph, name in zip(graphs, names, strict=True):
        heights = 1 / torch.linalg.inv(complete_axes(graph)[0]).norm(dim=0)
        times = [
            math.ceil(needed / height) if repeats else 1
            for height, repeats in zip(heights.tolist(), graph.pbc[0].tolist(), strict=True)
        ]
        if max(times) > 1:
            lowest = float(heights[graph.pbc[0]].min())
            short.append(f"{name}: {lowest:.1f} Å, atoms.repeat({tuple(times)})")
    if short:
        more = f"; and {len(short) - _LISTED} more" if len(short) > _LISTED else ""
        warnings.warn(
            f"born_charges: {len(short)} of {len(graphs)} structures are lower than {needed:g} Å (2 cutoffs of the "
            "model) in a direction in which they repeat; each atom is seen at its nearest image there, so the result "
            "may be wrong by several per cent; repeat the cell, and read the charges of its first atoms: "
            f"{'; '.join(short[:_LISTED])}{more}",
            stacklevel=3,
        )
