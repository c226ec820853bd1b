"""Coulomb energy of Gaussian-smeared charges of free molecules: all pairs, no loop over the molecules of a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.errors import InputError
from foundation.nn.readout import sum_atoms
from foundation.units import COULOMB_CONSTANT


class CoulombConfig(Config):
    """Add the Coulomb energy of the model's charges to its energy.

    Attributes:
        smearing: Width σ of each charge's Gaussian, Å.
    """

    kind: Literal["coulomb"] = "coulomb"
    smearing: float = Field(1.0, gt=0)


def molecule_pairs(num_atoms_per_graph: Int[Tensor, " graphs"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """All pairs i < j of atoms in the same graph."""
    counts = num_atoms_per_graph
    starts = torch.cumsum(counts, 0) - counts
    rows = torch.repeat_interleave(counts, counts)
    first = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), rows)
    offset = torch.arange(len(first), device=rows.device) - torch.repeat_interleave(torch.cumsum(rows, 0) - rows, rows)
    second = torch.repeat_interleave(torch.repeat_interleave(starts, counts), rows) + offset
    keep = first < second
    return first[keep], second[keep]


class CoulombEnergy(nn.Module):
    """E = k Σ_{i<j} q_i q_j erf(r_ij / 2σ) / r_ij, eV, float64.

    Two Gaussians of width σ interact like point charges screened by erf(r / (√2 · √2 σ)).

    Source: Gaussian charge distributions, e.g. Ko et al., Nat. Commun. 12, 398 (2021), eq. 5.
    """

    def __init__(self, config: CoulombConfig) -> None:
        super().__init__()
        self.smearing = config.smearing

    def forward(self, charges: Float[Tensor, " atoms"], graph: AtomGraph) -> Float[Tensor, " graphs"]:
        """Give the energy of each graph.

        Raises:
            InputError: A graph is periodic: its sum needs Ewald's method.
        """
        if bool(graph.pbc.any()):
            raise InputError(
                "electrostatics 'coulomb' sums all pairs of free molecules, got a periodic structure; "
                "train periodic structures without `electrostatics`"
            )
        first, second = molecule_pairs(graph.num_atoms_per_graph)
        charges = charges.double()
        distances = (graph.positions[first] - graph.positions[second]).square().sum(1).sqrt()
        screened = torch.erf(distances / (2 * self.smearing)) / distances
        energies = COULOMB_CONSTANT * charges[first] * charges[second] * screened
        return sum_atoms(energies, graph.graph_index[first], graph.num_graphs)


def self_interaction(smearing: float) -> float:
    """Interaction of two coinciding unit charges, k / (√π σ), eV: the limit of erf(r/2σ)/r at r = 0."""
    return COULOMB_CONSTANT / (math.sqrt(math.pi) * smearing)
