"""Atoms of several structures as a table padded to the largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.nn.gather import add_rows, take_rows


@dataclass(frozen=True)
class Slots:
    """Atoms of some structures of a batch, a row for each.

    Attributes:
        atoms: Their indices in the batch; an empty place names atom 0.
        filled: False in empty places.
    """

    atoms: Int[Tensor, "group slots"]
    filled: Bool[Tensor, "group slots"]

    def gather(self, values: Float[Tensor, "atoms *shape"]) -> Float[Tensor, "group slots *shape"]:
        """The values of each structure's atoms, zero in empty places."""
        taken = take_rows(values, self.atoms.reshape(-1)).reshape(*self.atoms.shape, *values.shape[1:])
        mask = self.filled.reshape(*self.filled.shape, *[1] * (values.dim() - 1))
        return torch.where(mask, taken, 0.0)

    def scatter(self, values: Float[Tensor, "group slots *shape"], *, num_atoms: int) -> Float[Tensor, "atoms *shape"]:
        """The values at their atoms, zero elsewhere; those of empty places must be zero."""
        return add_rows(values.flatten(0, 1), self.atoms.reshape(-1), size=num_atoms)


def atom_slots(graph: AtomGraph, graphs: Int[Tensor, " group"], *, width: int | None = None) -> Slots:
    """Tabulate the atoms of some structures.

    Args:
        graph: The batch.
        graphs: Which of its structures.
        width: Places for each; those of the largest if None.
    """
    counts = graph.num_atoms_per_graph
    starts = (torch.cumsum(counts, 0) - counts)[graphs]
    width = int(counts[graphs].max()) if width is None else width
    places = torch.arange(width, device=counts.device)
    filled = places < counts[graphs][:, None]
    return Slots(torch.where(filled, starts[:, None] + places, 0), filled)
