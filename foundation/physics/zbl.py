"""Screened repulsion of nuclei: what keeps atoms apart where no label has ever been."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from ase.data import covalent_radii
from jaxtyping import Float
from torch import Tensor, nn

from foundation.backbones.geometry import padded_geometry
from foundation.config import Config
from foundation.data.graph import MAXIMUM_ATOMIC_NUMBER, AtomGraph, edge_vectors
from foundation.nn.gather import add_rows, take_rows
from foundation.nn.radial import envelope
from foundation.nn.readout import sum_atoms
from foundation.units import BOHR_IN_ANGSTROM, COULOMB_CONSTANT

SCREENING_LENGTH = 0.8854 * BOHR_IN_ANGSTROM
"""Å; the radius 0.8854 a₀ of Thomas and Fermi, divided by Z_i^0.23 + Z_j^0.23."""
SCREENING_POWER = 0.23
SCREENING_WEIGHTS = (0.02817, 0.28022, 0.50986, 0.18175)
SCREENING_EXPONENTS = (0.20162, 0.40290, 0.94229, 3.19980)
HEAVIEST_RADIUS = 96
"""Covalent radii are known up to curium; heavier atoms take its radius."""


class ZBLConfig(Config):
    """Add the screened Coulomb repulsion of nuclei closer than the sum of their covalent radii; no parameters."""

    kind: Literal["zbl"] = "zbl"


class ZBLRepulsion(nn.Module):
    """E = ½ Σ_ij k Z_i Z_j / r_ij · φ(r_ij / a_ij) · u(r_ij / R_ij), eV, float64, over all directed edges.

    φ is the universal screening function, u the envelope (1-x)⁴(1+4x+10x²+20x³), R_ij the sum of the covalent radii or
    the cutoff where that is less: single bonds feel hundredths of an eV, double bonds tenths, and three
    derivatives vanish at R_ij.

    Args:
        config: Names it; there is nothing to choose.
        cutoff: Å; graphs carry all edges up to it.
        edge_fields: The fields of a graph that hold its edges: the padded table or the edge list, as the backbone reads
            them, so that a graph with only one of the two will do.

    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter, vol. 1 (1985); radii: Cordero et al.,
    Dalton Trans. 2832 (2008).
    """

    radii: Float[Tensor, " numbers"]

    def __init__(self, config: ZBLConfig, *, cutoff: float, edge_fields: Collection[str]) -> None:
        super().__init__()
        self.config = config
        self.cutoff = cutoff
        self.reads_table = "slot_senders" in edge_fields
        numbers = torch.arange(MAXIMUM_ATOMIC_NUMBER + 1).clamp(max=HEAVIEST_RADIUS)
        self.register_buffer("radii", torch.as_tensor(covalent_radii, dtype=torch.float64)[numbers], persistent=False)

    def forward(self, graph: AtomGraph) -> Float[Tensor, " graphs"]:
        """Give each graph's energy, differentiable in positions and cell as often as wanted.

        Edges that have moved beyond the cutoff, or are empty slots, give zero.
        """
        num_atoms = graph.positions.shape[0]
        charges = graph.atomic_numbers.double()
        inverse_lengths = charges**SCREENING_POWER / SCREENING_LENGTH
        radii = take_rows(self.radii.double(), graph.atomic_numbers)
        atomic = torch.stack([charges, inverse_lengths, radii], dim=1)
        if self.reads_table:
            geometry = padded_geometry(graph, cutoff=self.cutoff, dtype=torch.float64)
            own = atomic[:, None].expand(num_atoms, geometry.width, 3).reshape(-1, 3)
            energies = self._of_pairs(geometry.distances, own, take_rows(atomic, geometry.senders))
            per_atom = energies.view(num_atoms, geometry.width).sum(1)
        else:
            distances = edge_vectors(graph, graph.positions, graph.cell).square().sum(1).sqrt()
            energies = self._of_pairs(distances, take_rows(atomic, graph.receivers), take_rows(atomic, graph.senders))
            per_atom = add_rows(energies, graph.receivers, size=num_atoms)
        return sum_atoms(per_atom, graph.graph_index, graph.num_graphs)

    def _of_pairs(
        self,
        distances: Float[Tensor, " pairs"],
        receivers: Float[Tensor, "pairs 3"],
        senders: Float[Tensor, "pairs 3"],
    ) -> Float[Tensor, " pairs"]:
        """Half the energy of each pair, which is there in both directions."""
        charges = receivers[:, 0] * senders[:, 0]
        scaled = distances * (receivers[:, 1] + senders[:, 1])
        reach = (receivers[:, 2] + senders[:, 2]).clamp(max=self.cutoff)
        screening = torch.zeros_like(distances)
        for weight, exponent in zip(SCREENING_WEIGHTS, SCREENING_EXPONENTS, strict=True):
            screening = screening + weight * torch.exp(-exponent * scaled)
        return 0.5 * COULOMB_CONSTANT * charges / distances * screening * envelope(distances / reach, 1.0)
