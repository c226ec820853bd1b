"""Derivatives by autograd, in one place: forces, stress and Born effective charges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.nn.gather import take_rows

DERIVED = frozenset({"forces", "stress", "born_charges"})


@dataclass(frozen=True)
class Deformation:
    """What energies are differentiated by; leaves of autograd.

    Attributes:
        positions: `[atoms, 3]`, Å.
        strain: `[graphs, 3, 3]`, dimensionless, zero; None unless stress is asked for.
    """

    positions: Float[Tensor, "atoms 3"]
    strain: Float[Tensor, "graphs 3 3"] | None


def undeformed(graph: AtomGraph, *, with_strain: bool) -> Deformation:
    """Positions and a strain of zero, both requiring gradients."""
    strain = torch.zeros_like(graph.cell).requires_grad_(True) if with_strain else None
    return Deformation(graph.positions.detach().requires_grad_(True), strain)


def deformed(
    graph: AtomGraph, deformation: Deformation
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "graphs 3 3"]]:
    """Positions and cells as functions of a deformation; only the symmetric part of the strain acts."""
    if deformation.strain is None:
        return deformation.positions, graph.cell
    symmetric = (deformation.strain + deformation.strain.transpose(1, 2)) / 2
    moved = torch.einsum("na,nab->nb", deformation.positions, take_rows(symmetric, graph.graph_index))
    return deformation.positions + moved, graph.cell + graph.cell @ symmetric


def forces_and_stress(
    energy: Float[Tensor, " graphs"],
    graph: AtomGraph,
    deformation: Deformation,
    *,
    create_graph: bool,
    retain_graph: bool = False,
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "graphs 3 3"] | None]:
    """Differentiate the energy by positions and, if there is one, by the strain.

    Args:
        energy: eV.
        graph: The undeformed structures.
        deformation: What the energy was computed from.
        create_graph: Whether the results will be differentiated again.
        retain_graph: Whether other derivatives follow.

    Returns:
        Forces, eV/Å; stress, (1/V) dE/dε, eV/Å³, tension positive, NaN for graphs that do not repeat in all three
        directions.

    Source: Knuth et al., Comput. Phys. Commun. 190, 33 (2015), eq. 9.
    """
    strain = deformation.strain
    inputs = [deformation.positions] if strain is None else [deformation.positions, strain]
    gradients = torch.autograd.grad(
        energy.sum(), inputs, create_graph=create_graph, retain_graph=create_graph or retain_graph
    )
    if strain is None:
        return -gradients[0], None
    volume = torch.linalg.det(graph.cell).abs()
    bulk = graph.pbc.all(dim=1)
    stress = gradients[1] / torch.where(bulk, volume, 1.0)[:, None, None]
    return -gradients[0], torch.where(bulk[:, None, None], stress, torch.nan)


def born_charges(
    dipole: Float[Tensor, "graphs 3"], deformation: Deformation, *, create_graph: bool, retain_graph: bool = False
) -> Float[Tensor, "atoms 3 3"]:
    """Differentiate the dipole by positions: Z[i, a, b] = dP_a / dr_ib, e."""
    rows = [
        torch.autograd.grad(
            dipole[:, axis].sum(),
            deformation.positions,
            create_graph=create_graph,
            retain_graph=create_graph or retain_graph or axis < 2,
        )[0]
        for axis in range(3)
    ]
    return torch.stack(rows, dim=1)
