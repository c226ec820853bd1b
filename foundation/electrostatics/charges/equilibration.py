"""Charge equilibration: the charges and atomic dipoles of lowest energy, by one dense solve for a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import MAXIMUM_ATOMIC_NUMBER, AtomGraph
from foundation.electrostatics.charges.distribution import ChargeModel, Distribution
from foundation.electrostatics.charges.electronegativity import pauling_electronegativities
from foundation.electrostatics.charges.moments import undefined_in_cells
from foundation.electrostatics.interaction import Interaction
from foundation.electrostatics.sources import Sources
from foundation.errors import InputError
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import add_rows, take_rows
from foundation.nn.readout import GatedReadout, Perceptron

__all__ = ["Equilibration", "EquilibrationConfig"]

VOLTS_PER_ELECTRONEGATIVITY = 2.976
"""Mulliken's scale (eV) over Pauling's: 1 / 0.336. Source: Huheey, Inorganic Chemistry, 3rd edition (1983), p. 152."""
MINIMUM_HARDNESS = 0.1
"""eV/e² on top of a Gaussian charge's own energy, and in (eV/e²)/Å² for dipoles: keeps the solve well-conditioned."""
FIRST_HARDNESS = 4.0
"""eV/e² on top of a charge's own energy before anything is learnt: with σ = 1 Å about 12 eV/e², as of carbon."""
FIRST_STIFFNESS = 8.0
"""V/(e·Å²), the same for dipoles: a polarizability of 0.1 e²·Å²/eV or 1.5 Å³, about that of carbon."""


class EquilibrationConfig(Config):
    """Charges and dipoles that minimise E(q, μ) = Σ χq + ½ηq² + e·μ + ½μ²/α + their interaction - F·P.

    Electronegativity χ, hardness η, e and polarizability α are read from the features of each atom.

    Attributes:
        max_atoms: Of one structure: memory grows as the square and time as the cube. With dipoles a training step takes
            10 s and 1.1 GB for a periodic structure of 400 atoms on one core, half a second for a molecule of 400.
    """

    kind: Literal["qeq"] = "qeq"
    max_atoms: int = Field(default=500, ge=1)


@dataclass(frozen=True)
class _Layout:
    """Where atoms stand in arrays padded to the largest graph of a batch.

    Attributes:
        place: Row of each atom in `[graphs * width]`.
        num_graphs: Of the batch.
        width: Atoms of the largest graph.
    """

    place: Int[Tensor, " atoms"]
    num_graphs: int
    width: int

    def pad(self, values: Float[Tensor, "atoms *shape"]) -> Float[Tensor, "graphs width *shape"]:
        """Zero where a graph has fewer atoms."""
        padded = add_rows(values, self.place, size=self.num_graphs * self.width)
        return padded.view(self.num_graphs, self.width, *values.shape[1:])

    def unpad(self, values: Float[Tensor, "graphs width *shape"]) -> Float[Tensor, "atoms *shape"]:
        """Back to one row an atom."""
        return take_rows(values.flatten(0, 1), self.place)


class Equilibration(ChargeModel):
    """One batched solve of the stationarity conditions with the total charges as constraints, float64.

    η exceeds the energy of a Gaussian charge with itself and 1/α that of a Gaussian dipole, so that the quadratic form
    is that of the energy of a charge density plus something positive: it has one minimum, whatever the geometry.

    Args:
        config: Its limit.
        layout: Of the features.
        hidden: Width of the readouts.
        atomic_dipoles: Whether atoms carry dipoles beside charges.
        interaction: Of the charges and dipoles.

    Source: Rappé, Goddard, J. Phys. Chem. 95, 3358 (1991); with Gaussians, Ko et al., Nat. Commun. 12, 398 (2021).
    """

    begin: Float[Tensor, " numbers"]

    def __init__(
        self,
        config: EquilibrationConfig,
        layout: FeatureLayout,
        *,
        hidden: int,
        atomic_dipoles: bool,
        interaction: Interaction,
    ) -> None:
        super().__init__()
        self.max_atoms = config.max_atoms
        self.interaction = interaction
        self.readout = Perceptron(
            layout.natural_channels, hidden, 3 if atomic_dipoles else 2, num_levels=layout.num_levels
        )
        self.moment = GatedReadout(layout, degree=1, parity=-1, hidden=hidden) if atomic_dipoles else None
        smearing = interaction.config.smearing
        self.own_hardness = interaction.constant / (math.sqrt(math.pi) * smearing)
        self.own_stiffness = interaction.constant / (6 * math.sqrt(math.pi) * smearing**3)
        electronegativity = VOLTS_PER_ELECTRONEGATIVITY * pauling_electronegativities(MAXIMUM_ATOMIC_NUMBER + 1)
        self.register_buffer("begin", electronegativity, persistent=False)

    def forward(self, features: Features, graph: AtomGraph, *, with_polarizability: bool = False) -> Distribution:
        layout = self._layout(graph)
        linear, diagonal = self._coefficients(features, graph, layout)
        filled = layout.pad(torch.ones_like(graph.positions[:, 0]))
        charged = self._unknowns(filled, torch.zeros_like(filled)[:, :, None].expand(-1, -1, 3))
        matrix = self.interaction.matrix(graph, with_dipoles=self.moment is not None) + torch.diag_embed(diagonal)
        edge = torch.cat([charged, charged.new_zeros(graph.num_graphs, 1)], dim=1)
        bordered = torch.cat([torch.cat([matrix, charged[:, :, None]], dim=2), edge[:, None]], dim=1)
        sides = torch.cat([-linear, graph.total_charge[:, None]], dim=1)[:, :, None]
        if with_polarizability:
            response = self._response(graph, layout, filled)
            sides = torch.cat([sides, nn.functional.pad(response, (0, 0, 0, 1))], dim=2)
        solution = torch.linalg.solve(bordered, sides)
        unknowns = solution[:, :-1, 0]
        energy = (unknowns * (linear + 0.5 * (matrix @ unknowns[:, :, None])[:, :, 0])).sum(1)
        polarizability = None
        if with_polarizability:
            matrix_of_response = response.transpose(1, 2) @ solution[:, :-1, 1:]
            polarizability = undefined_in_cells((matrix_of_response + matrix_of_response.transpose(1, 2)) / 2, graph)
        return Distribution(self._sources(unknowns, layout), energy, polarizability)

    def _layout(self, graph: AtomGraph) -> _Layout:
        counts = graph.num_atoms_per_graph
        width = int(counts.max())
        if width > self.max_atoms:
            raise InputError(
                f"charge model 'qeq': a structure has {width} atoms; its dense solve is limited to {self.max_atoms} "
                "(max_atoms); allowed: smaller structures, a larger limit where memory and time suffice (they grow as "
                "the square and the cube), or a model trained with charge model 'redistributed', which has no limit"
            )
        starts = torch.cumsum(counts, 0) - counts
        slots = torch.arange(len(graph.graph_index), device=counts.device) - take_rows(starts, graph.graph_index)
        return _Layout(graph.graph_index * width + slots, graph.num_graphs, width)

    def _coefficients(
        self, features: Features, graph: AtomGraph, layout: _Layout
    ) -> tuple[Float[Tensor, "graphs unknowns"], Float[Tensor, "graphs unknowns"]]:
        """Linear part and diagonal of the quadratic part; 0 and 1 where a graph has fewer atoms than the largest."""
        raw = self.readout(features.scalars, features.level).double()
        field = take_rows(graph.external_field, graph.graph_index)
        pull = raw[:, 0] + take_rows(self.begin.double(), graph.atomic_numbers) - (field * graph.positions).sum(1)
        hardness = self.own_hardness + _positive(raw[:, 1], first=FIRST_HARDNESS)
        empty = 1.0 - layout.pad(torch.ones_like(pull))
        if self.moment is None:
            return layout.pad(pull), layout.pad(hardness) + empty
        stiffness = self.own_stiffness + _positive(raw[:, 2], first=FIRST_STIFFNESS)
        linear = self._unknowns(layout.pad(pull), layout.pad(self.moment(features).double() - field))
        stiff = (layout.pad(stiffness) + empty)[:, :, None].expand(-1, -1, 3)
        return linear, self._unknowns(layout.pad(hardness) + empty, stiff)

    def _unknowns(
        self, charges: Float[Tensor, "graphs width"], dipoles: Float[Tensor, "graphs width 3"]
    ) -> Float[Tensor, "graphs unknowns"]:
        """In the order of the interaction's matrix: charges, then the x, y and z of the dipoles."""
        if self.moment is None:
            return charges
        return torch.cat([charges, dipoles.transpose(1, 2).flatten(1)], dim=1)

    def _sources(self, unknowns: Float[Tensor, "graphs unknowns"], layout: _Layout) -> Sources:
        width = layout.width
        charges = layout.unpad(unknowns[:, :width])
        if self.moment is None:
            return Sources(charges, None)
        dipoles = unknowns[:, width:].unflatten(1, (3, width)).transpose(1, 2)
        return Sources(charges, layout.unpad(dipoles))

    def _response(
        self, graph: AtomGraph, layout: _Layout, filled: Float[Tensor, "graphs width"]
    ) -> Float[Tensor, "graphs unknowns 3"]:
        """-d(linear part)/d(field): positions for charges, the unit vectors for dipoles."""
        positions = layout.pad(graph.positions)
        units = filled[:, :, None] * torch.eye(3, dtype=filled.dtype, device=filled.device)[:, None, None, :]
        return torch.stack([self._unknowns(positions[:, :, axis], units[axis]) for axis in range(3)], dim=2)


def _positive(raw: Float[Tensor, " atoms"], *, first: float) -> Float[Tensor, " atoms"]:
    """Above `MINIMUM_HARDNESS`; about `first` for 0."""
    return MINIMUM_HARDNESS + nn.functional.softplus(raw + first)
