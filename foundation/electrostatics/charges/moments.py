"""Dipoles and second moments of charges and atomic dipoles, about the centre of mass."""

from __future__ import annotations

import torch
from ase.data import atomic_masses
from jaxtyping import Float
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.electrostatics.sources import Sources
from foundation.nn.gather import take_rows
from foundation.nn.readout import sum_atoms

__all__ = ["Moments", "field_energy", "undefined_in_cells"]


class Moments(nn.Module):
    """Moments of a distribution of charge; no weights."""

    masses: Float[Tensor, " numbers"]

    def __init__(self) -> None:
        super().__init__()
        masses = torch.as_tensor(atomic_masses.copy(), dtype=torch.float64)
        masses[0] = 1.0
        self.register_buffer("masses", masses, persistent=False)

    def centred(self, graph: AtomGraph) -> Float[Tensor, "atoms 3"]:
        """Positions relative to the centre of mass of each graph, Å."""
        mass = self.masses.double()[graph.atomic_numbers]
        total_mass = sum_atoms(mass, graph.graph_index, graph.num_graphs)
        centre = sum_atoms(mass[:, None] * graph.positions, graph.graph_index, graph.num_graphs) / total_mass[:, None]
        return graph.positions - take_rows(centre, graph.graph_index)

    def dipole(self, sources: Sources, graph: AtomGraph) -> Float[Tensor, "graphs 3"]:
        """Σ q r + μ, e·Å; NaN in periodic cells, where it is defined only modulo lattice vectors."""
        moments = sources.charges[:, None] * self.centred(graph)
        if sources.dipoles is not None:
            moments = moments + sources.dipoles
        return undefined_in_cells(sum_atoms(moments, graph.graph_index, graph.num_graphs), graph)

    def quadrupole(self, sources: Sources, graph: AtomGraph) -> Float[Tensor, "graphs 3 3"]:
        """Σ q r rᵀ + μ rᵀ + r μᵀ, e·Å², with its trace; NaN in periodic cells."""
        positions = self.centred(graph)
        moments = sources.charges[:, None, None] * positions[:, :, None] * positions[:, None, :]
        if sources.dipoles is not None:
            mixed = sources.dipoles[:, :, None] * positions[:, None, :]
            moments = moments + mixed + mixed.transpose(1, 2)
        return undefined_in_cells(sum_atoms(moments, graph.graph_index, graph.num_graphs), graph)


def undefined_in_cells(values: Float[Tensor, "graphs *shape"], graph: AtomGraph) -> Float[Tensor, "graphs *shape"]:
    """NaN for every graph that repeats in some direction."""
    periodic = graph.pbc.any(dim=1).reshape(-1, *[1] * (values.ndim - 1))
    return torch.where(periodic, torch.nan, values)


def field_energy(sources: Sources, graph: AtomGraph) -> Float[Tensor, " graphs"]:
    """-F·(Σ q r + μ), eV, with positions from the origin of coordinates.

    Of a charged structure it depends on where the structure is, as it has to: a force Q F pulls at it. Its derivative
    by the field is therefore the dipole about the origin, not about the centre of mass.
    """
    field = take_rows(graph.external_field, graph.graph_index)
    atomic = -sources.charges * (field * graph.positions).sum(1)
    if sources.dipoles is not None:
        atomic = atomic - (field * sources.dipoles).sum(1)
    return sum_atoms(atomic, graph.graph_index, graph.num_graphs)
