"""Periodic structures with a net charge: which they are, and what their energies mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from foundation.data.graph import AtomGraph

CONVENTIONS = {
    3: "crystal: a uniform background of charge neutralises it",
    2: "slab: a charged plane, whose potential goes as -2π|z|",
    1: "wire: a charged line, whose potential goes as -2 ln(ρ/Å)",
}
"""Number of directions in which a structure repeats -> what stands for the missing zero of its energy."""


@dataclass(frozen=True)
class CellCautions:
    """What is to be said of a model's predictions for periodic structures.

    Attributes:
        by_convention: The zero of energy of a charged cell is a convention: its unscreened charges interact.
        told_charge: Features depend on the total charge and spin of the whole cell.
        nearest_images: Born charges take the nearest image of each atom, so that cells have to be long.
    """

    by_convention: bool
    told_charge: bool
    nearest_images: bool


def charged_cells(graph: AtomGraph) -> Bool[Tensor, " graphs"]:
    """Which graphs repeat in some direction and carry a net charge, so that a convention sets the zero of energy."""
    return graph.pbc.any(dim=1) & (graph.total_charge != 0)


def describe_charged(counts: Mapping[int, int], cautions: CellCautions) -> str:
    """What to know of a model's predictions for charged cells, as the end of a sentence; empty if nothing.

    Args:
        counts: Number of directions in which they repeat -> how many.
        cautions: Of the model.
    """
    parts = []
    if cautions.by_convention:
        kinds = "; ".join(f"{count} {CONVENTIONS[axes]}" for axes, count in sorted(counts.items(), reverse=True))
        parts.append(
            f"the zero of energy is a convention ({kinds}), and energies are comparable between structures of the same "
            "cell and charge only"
        )
    if cautions.told_charge:
        parts.append(
            "features are told the charge and spin of the whole cell, so that a supercell with a multiple of both is "
            "another system to the model"
        )
    return "; ".join(parts)
