"""Derivatives by autograd, in one place: forces, stress and Born effective charges."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.data.graph import AtomGraph

DERIVED = frozenset({"forces", "stress", "born_charges"})


@dataclass(frozen=True)
class Deformable:
    """A graph whose positions and cell carry gradients.

    Attributes:
        graph: To be given to the model.
        positions: `[atoms, 3]`, Å, leaf.
        strain: `[graphs, 3, 3]`, dimensionless, leaf, zero; None unless stress is asked for.
    """

    graph: AtomGraph
    positions: Float[Tensor, "atoms 3"]
    strain: Float[Tensor, "graphs 3 3"] | None


def deformable(graph: AtomGraph, *, with_strain: bool) -> Deformable:
    """Copy a graph shallowly and let its positions (and a symmetric strain) require gradients."""
    positions = graph.positions.detach().requires_grad_(True)
    shallow = copy.copy(graph)
    if not with_strain:
        shallow.positions = positions
        return Deformable(shallow, positions, None)
    strain = torch.zeros_like(graph.cell).requires_grad_(True)
    symmetric = (strain + strain.transpose(1, 2)) / 2
    shallow.positions = positions + torch.einsum("na,nab->nb", positions, symmetric[graph.graph_index])
    shallow.cell = graph.cell + graph.cell @ symmetric
    return Deformable(shallow, positions, strain)


def forces_and_stress(
    energy: Float[Tensor, " graphs"],
    moving: Deformable,
    *,
    create_graph: bool,
    retain_graph: bool = False,
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "graphs 3 3"] | None]:
    """Differentiate the energy by positions and, if there is one, by the strain.

    Args:
        energy: eV.
        moving: What the energy was computed from.
        create_graph: Whether the results will be differentiated again.
        retain_graph: Whether other derivatives follow.

    Returns:
        Forces, eV/Å; stress, (1/V) dE/dε, eV/Å³, tension positive, NaN for graphs that do not repeat in all three
        directions.

    Source: Knuth et al., Comput. Phys. Commun. 190, 33 (2015), eq. 9.
    """
    inputs = [moving.positions] if moving.strain is None else [moving.positions, moving.strain]
    gradients = torch.autograd.grad(
        energy.sum(), inputs, create_graph=create_graph, retain_graph=create_graph or retain_graph
    )
    if moving.strain is None:
        return -gradients[0], None
    volume = torch.linalg.det(moving.graph.cell.detach()).abs()
    bulk = moving.graph.pbc.all(dim=1)
    stress = gradients[1] / torch.where(bulk, volume, 1.0)[:, None, None]
    return -gradients[0], torch.where(bulk[:, None, None], stress, torch.nan)


def born_charges(
    dipole: Float[Tensor, "graphs 3"], moving: Deformable, *, create_graph: bool, retain_graph: bool = False
) -> Float[Tensor, "atoms 3 3"]:
    """Differentiate the dipole by positions: Z[i, a, b] = dP_a / dr_ib, e."""
    rows = [
        torch.autograd.grad(
            dipole[:, axis].sum(),
            moving.positions,
            create_graph=create_graph,
            retain_graph=create_graph or retain_graph or axis < 2,
        )[0]
        for axis in range(3)
    ]
    return torch.stack(rows, dim=1)
