"""Atomic charges that add up to the total charge exactly, and the dipole moment they give."""

from __future__ import annotations

from typing import Literal

import torch
from ase.data import atomic_masses
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import take_rows
from foundation.nn.readout import GatedReadout, Perceptron, sum_atoms


class ChargesConfig(Config):
    """Charges, and a dipole from charges and atomic dipoles.

    Attributes:
        hidden: Width of the readouts.
        atomic_dipoles: Whether atoms carry a dipole beside their charge.
    """

    kind: Literal["charges"] = "charges"
    hidden: int = Field(default=32, ge=1)
    atomic_dipoles: bool = True

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("partial_charges", "dipole")


def redistribute(
    charges: Float[Tensor, " atoms"],
    softness: Float[Tensor, " atoms"],
    graph: AtomGraph,
) -> Float[Tensor, " atoms"]:
    """q = q̃ + f (Q - Σq̃) / Σf: charges that sum to the total charge of each graph.

    Args:
        charges: q̃, e.
        softness: f > 0.
    """
    missing = graph.total_charge.to(charges.dtype) - sum_atoms(charges, graph.graph_index, graph.num_graphs)
    weight = sum_atoms(softness, graph.graph_index, graph.num_graphs)
    return charges + softness * take_rows(missing / weight, graph.graph_index)


class ChargesHead(Head):
    """Charges in e, dipole in e·Å about the centre of mass; both physical, none of them scaled.

    In a periodic cell the dipole of charges is defined only modulo lattice vectors: it is NaN there. The `tensor` head
    gives a cell's dipole as a sum of atomic vectors.
    """

    reads_pseudo = False
    normalised = False
    masses: Float[Tensor, " numbers"]

    def __init__(self, config: ChargesConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.charge = Perceptron(layout.natural_channels, config.hidden, 2)
        self.moment = GatedReadout(layout, degree=1, parity=-1, hidden=config.hidden) if config.atomic_dipoles else None
        masses = torch.as_tensor(atomic_masses.copy(), dtype=torch.float64)
        masses[0] = 1.0
        self.register_buffer("masses", masses, persistent=False)

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        raw = self.charge(features.scalars).double()
        softness = nn.functional.softplus(raw[:, 1]) + 1e-3
        charges = redistribute(raw[:, 0], softness, graph)
        mass = self.masses[graph.atomic_numbers]
        total_mass = sum_atoms(mass, graph.graph_index, graph.num_graphs)
        centre = sum_atoms(mass[:, None] * graph.positions, graph.graph_index, graph.num_graphs) / total_mass[:, None]
        moments = charges[:, None] * (graph.positions - take_rows(centre, graph.graph_index))
        if self.moment is not None:
            moments = moments + self.moment(features).double()
        dipole = sum_atoms(moments, graph.graph_index, graph.num_graphs)
        periodic = graph.pbc.any(dim=1, keepdim=True)
        return {"partial_charges": charges, "dipole": torch.where(periodic, torch.nan, dipole)}
