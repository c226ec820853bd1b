"""Derivatives by autograd, in one place: forces, stress and Born effective charges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.electrostatics.sources import Sources
from foundation.nn.gather import take_rows
from foundation.nn.readout import sum_atoms

HARMONICS = (45 / 30, -9 / 30, 1 / 30)
"""Of sin x, sin 2x and sin 3x in what stands for a distance x: the first error is of seventh order in x."""
DERIVED = frozenset({"forces", "stress", "born_charges"})


@contextmanager
def constant_weights(model: nn.Module, *, when: bool) -> Iterator[None]:
    """Within this context weights need no gradients, so that operators of our own compute none beside the forces.

    Args:
        model: Whose weights.
        when: Whether to do so. Never done while a compiler looks on: it drops by itself what nobody reads.
    """
    when = when and not torch.compiler.is_compiling()
    weights = [one for one in model.parameters() if one.requires_grad] if when else []
    for one in weights:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in weights:
            one.requires_grad_(True)


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


def dipole_derivatives(
    dipole: Float[Tensor, "graphs 3"], deformation: Deformation, *, create_graph: bool, retain_graph: bool = False
) -> Float[Tensor, "atoms 3 3"]:
    """Differentiate a dipole that is a sum of atomic vectors by positions: Z[i, a, b] = dP_a / dr_ib, e."""
    rows = [
        _slope(
            [(dipole[:, axis], torch.ones_like(dipole[:, axis]))],
            deformation.positions,
            create_graph=create_graph,
            retain_graph=retain_graph or axis < 2,
        )
        for axis in range(3)
    ]
    return torch.stack(rows, dim=1)


def born_charges(
    sources: Sources,
    graph: AtomGraph,
    deformation: Deformation,
    *,
    create_graph: bool,
) -> Float[Tensor, "atoms 3 3"]:
    """Differentiate the polarization of charges and atomic dipoles by positions: Z[i, a, b] = dP_a / dr_ib, e.

    Z_i = q_i 1 + Σ_j (r_j - r_i) ∂q_j/∂r_i + ∂Σμ/∂r_i. The origin of positions is fixed in space, so that Σ Z_i = Q 1
    for ions too. In a direction in which the structure repeats, P is known modulo lattice vectors only, but not its
    derivative: there r_j - r_i is the nearest image's, through the smooth periodic function d(x) = (45 sin x - 9 sin 2x
    + sin 3x)/30 of the fractional distance x = 2π (s_j - s_i), which each harmonic splits into a product, so that its
    sum over atoms costs two backward passes. Across half of a cell d(x) is no distance any more: charges must respond
    to their surroundings only, in cells that are longer. What that leaves of Σ Z_i - Q 1, which is zero for an infinite
    crystal (acoustic sum rule), is taken off all atoms in equal parts, in periodic structures only.

    Args:
        sources: Computed from `deformation`.
        graph: The undeformed structures.
        deformation: Leaves of autograd.
        create_graph: Whether the result will be differentiated again. What the sources were computed through stays
            for other derivatives either way.

    Source: Pick, Cohen, Martin, Phys. Rev. B 1, 910 (1970), for the sum rule.
    """
    positions = graph.positions.detach()
    axes = complete_axes(graph)
    inverse = torch.linalg.inv(axes)
    middle = sum_atoms(positions, graph.graph_index, graph.num_graphs) / graph.num_atoms_per_graph[:, None]
    centred = positions - take_rows(middle, graph.graph_index)
    fractions = torch.einsum("na,nak->nk", centred, take_rows(inverse, graph.graph_index))
    repeats = take_rows(graph.pbc, graph.graph_index)
    repeating = [bool(one) for one in graph.pbc.any(dim=0)]
    slopes: list[Tensor] = []
    for axis in range(3):
        parts = [(sources.charges, torch.where(repeats[:, axis], 0.0, fractions[:, axis]))]
        if sources.dipoles is not None:
            parts.append((sources.dipoles, take_rows(inverse[:, :, axis], graph.graph_index)))
        slope = _slope(parts, deformation.positions, create_graph=create_graph, retain_graph=True)
        if repeating[axis]:
            for order, weight in enumerate(HARMONICS, start=1):
                angle = 2 * math.pi * order * fractions[:, axis]
                sines, cosines = (
                    torch.where(repeats[:, axis], weight / (2 * math.pi) * wave, 0.0)
                    for wave in (torch.sin(angle), torch.cos(angle))
                )
                of_sine, of_cosine = (
                    _slope([(sources.charges, wave)], deformation.positions, create_graph=create_graph)
                    for wave in (sines, cosines)
                )
                slope = slope + torch.cos(angle)[:, None] * of_sine - torch.sin(angle)[:, None] * of_cosine
        slopes.append(slope)
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device)
    own = sources.charges[:, None, None] * identity
    shared = torch.einsum("knb,nka->nab", torch.stack(slopes), take_rows(axes, graph.graph_index))
    found = own + shared
    missing = graph.total_charge[:, None, None] * identity - sum_atoms(found, graph.graph_index, graph.num_graphs)
    missing = torch.where(graph.pbc.any(dim=1)[:, None, None], missing, 0.0)
    found = found + take_rows(missing / graph.num_atoms_per_graph[:, None, None], graph.graph_index)
    return found


def complete_axes(graph: AtomGraph) -> Float[Tensor, "graphs 3 3"]:
    """Cell vectors where a structure repeats, unit vectors perpendicular to them and to each other where not."""
    periodic = graph.pbc[:, :, None]
    cell = torch.where(periodic, graph.cell.detach(), 0.0)
    # Singular values fall, and those of what the periodic vectors do not span are zero: the last right vectors.
    free = torch.linalg.svd(cell)[2].flip(1)
    place = torch.cumsum((~graph.pbc).long(), dim=1) - 1
    chosen = torch.gather(free, 1, place.clamp(min=0)[:, :, None].expand(-1, -1, 3))
    return torch.where(periodic, graph.cell.detach(), chosen)


def _slope(
    weighted: list[tuple[Tensor, Tensor]],
    positions: Float[Tensor, "atoms 3"],
    *,
    create_graph: bool,
    retain_graph: bool = True,
) -> Float[Tensor, "atoms 3"]:
    """Differentiate a weighted sum of outputs by positions."""
    [gradient] = torch.autograd.grad(
        [output for output, _ in weighted],
        positions,
        grad_outputs=[weights for _, weights in weighted],
        create_graph=create_graph,
        retain_graph=create_graph or retain_graph,
    )
    return gradient
