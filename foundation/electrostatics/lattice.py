"""Periodic structures of a batch: groups that are summed together, completed cells, k-vectors and their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics.kernels import bulk_kernel, slab_kernel, wire_kernel
from foundation.electrostatics.radial import PairLaw
from foundation.electrostatics.slots import Slots, atom_slots

TAPER = (23.0, 27.0)
"""σ²k² between which the weights e^{−σ²k²} go smoothly to zero. They are below e⁻²³ = 1e-10 there, and since they reach
zero smoothly, a k-vector that enters or leaves the sum makes no step."""
TAIL = 2 * math.sqrt(TAPER[1])
"""In units of σ: beyond this the product of two Gaussians is below e⁻²⁷."""
WAVES_PER_LENGTH = math.sqrt(TAPER[1]) / math.pi
"""k-vectors along a lattice vector, in units of its length in σ."""
EMPTY_LENGTH = 30.0
"""About how long the completed vectors of wires are, in units of σ."""
TABLE_ELEMENTS = 2.0**23
"""Of the waves of a group's atoms: 64 MiB for each of up to four parts."""
BUCKET = 8.0
"""Structures whose work differs by less than about this factor are padded to one size and summed together."""


@dataclass(frozen=True)
class PeriodicGroup:
    """Structures of a batch that repeat in equally many directions and are of similar size.

    Attributes:
        dimensions: In how many directions they repeat, 1 to 3.
        graphs: Their indices in the batch.
    """

    dimensions: int
    graphs: Int[Tensor, " group"]


@dataclass(frozen=True)
class ReciprocalBox:
    """The k-vectors of a group of structures: a box of integers for all, weighted for each.

    k = n₁b₁ + n₂b₂ + n₃b₃, n₁ ≥ 0. As charges are real, k and −k contribute the same: n₁ > 0 counts twice.

    Attributes:
        slots: The atoms of each structure.
        positions: Å; padding at the origin.
        reciprocal: Rows b, 1/Å, with b_i·a_j = 2π δ_ij.
        orders: n₁, n₂ and n₃.
        weights: w(k) e²·Å⁻¹ with which the energy is Σ w(k) |S(k)|², own Gaussians included.
    """

    slots: Slots
    positions: Float[Tensor, "group slots 3"]
    reciprocal: Float[Tensor, "group 3 3"]
    orders: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"], Float[Tensor, " n3"]]
    weights: Float[Tensor, "group n1 n2 n3"]


def periodic_groups(graph: AtomGraph, chosen: Bool[Tensor, " graphs"], law: PairLaw) -> list[PeriodicGroup]:
    """The chosen structures in a few groups: one for each number of dimensions and order of magnitude of the work.

    A group whose tables would fill more than `TABLE_ELEMENTS` is cut into as few as do not.
    """
    lengths = graph.cell.detach().square().sum(2).sqrt()
    waves = torch.where(graph.pbc, lengths / law.smearing, EMPTY_LENGTH).sort(dim=1).values * WAVES_PER_LENGTH
    tables = (graph.num_atoms_per_graph * (waves[:, 0] / 2 + 1) * (waves[:, 1] + 1)).tolist()
    work = graph.num_atoms_per_graph * torch.where(graph.pbc, lengths, 1.0).prod(1)
    bucket = (work.log() / math.log(BUCKET)).floor().long()
    members: dict[tuple[int, int], list[int]] = {}
    rows = torch.stack([chosen.long(), graph.pbc.sum(1), bucket], dim=1).tolist()
    for index, (is_chosen, dimensions, size) in enumerate(rows):
        if is_chosen and dimensions > 0:
            members.setdefault((dimensions, size), []).append(index)
    groups = []
    for (dimensions, _), graphs in members.items():
        together = max(1, int(TABLE_ELEMENTS / max(tables[index] for index in graphs)))
        for start in range(0, len(graphs), together):
            part = torch.tensor(graphs[start : start + together], device=graph.pbc.device)
            groups.append(PeriodicGroup(dimensions, part))
    return groups


def single_groups(graph: AtomGraph, chosen: Bool[Tensor, " graphs"]) -> list[PeriodicGroup]:
    """Each chosen structure alone."""
    dimensions = graph.pbc.sum(1).tolist()
    return [PeriodicGroup(dimensions[int(index)], index[None]) for index in torch.nonzero(chosen)[:, 0]]


def completed_cells(
    graph: AtomGraph, group: PeriodicGroup, slots: Slots, positions: Float[Tensor, "group slots 3"], *, tail: float
) -> Float[Tensor, "group 3 3"]:
    """Cells of a group: repeating vectors first, shorter first; the others replaced by empty space, perpendicular.

    That of crystals carries the history of `graph.cell`; those of slabs and wires none.

    Args:
        graph: The batch.
        group: Some of its structures.
        slots: Their atoms.
        positions: Of these, Å.
        tail: How far two atoms' Gaussians reach, Å.
    """
    cell, pbc = graph.cell[group.graphs], graph.pbc[group.graphs]
    lengths = cell.detach().square().sum(2).sqrt()
    order = torch.where(pbc, lengths, torch.inf).argsort(dim=1, stable=True)
    cell = cell.gather(1, order[:, :, None].expand(-1, -1, 3))
    if group.dimensions == 3:
        return cell
    cell, positions = cell.detach(), positions.detach()
    if group.dimensions == 2:
        perpendicular = torch.linalg.cross(cell[:, 0], cell[:, 1])[:, None]
    else:
        along = torch.nn.functional.one_hot(cell[:, 0].abs().argmin(1), 3).to(cell.dtype)
        first = torch.linalg.cross(cell[:, 0], along)
        perpendicular = torch.stack([first, torch.linalg.cross(cell[:, 0], first)], dim=1)
    perpendicular = perpendicular / torch.linalg.vector_norm(perpendicular, dim=2, keepdim=True)
    heights = positions @ perpendicular.transpose(1, 2)
    filled = slots.filled[:, :, None]
    highest = torch.where(filled, heights, -torch.inf).amax(1)
    lowest = torch.where(filled, heights, torch.inf).amin(1)
    extent = torch.linalg.vector_norm(highest - lowest, dim=1)
    empty = 2 * (extent + tail)[:, None, None] * perpendicular
    return torch.cat([cell[:, : group.dimensions], empty], dim=1)


def reciprocal_box(graph: AtomGraph, group: PeriodicGroup, law: PairLaw, *, width: int | None = None) -> ReciprocalBox:
    """The k-vectors of a group of structures and their weights; places for `width` atoms (see `atom_slots`)."""
    slots = atom_slots(graph, group.graphs, width=width)
    positions = slots.gather(graph.positions)
    cell = completed_cells(graph, group, slots, positions, tail=TAIL * law.smearing)
    reciprocal = 2 * math.pi * torch.linalg.inv(cell).transpose(1, 2)
    longest = cell.detach().square().sum(2).sqrt().amax(0)
    ranges = [int(value) for value in (longest * (math.sqrt(TAPER[1]) / law.smearing / (2 * math.pi))).tolist()]
    orders = tuple(
        torch.arange(0 if axis == 0 else -size, size + 1, dtype=cell.dtype, device=cell.device)
        for axis, size in enumerate(ranges)
    )
    n1, n2, n3 = orders
    halves = torch.where(n1 > 0, 1.0, 0.5)[:, None, None]
    weights = halves * energy_weights(cell, (n1, n2, n3), law, dimensions=group.dimensions)
    return ReciprocalBox(slots, positions, reciprocal, (n1, n2, n3), weights)


def energy_weights(
    cell: Float[Tensor, "group 3 3"],
    orders: tuple[Float[Tensor, " n1"], Float[Tensor, " n2"], Float[Tensor, " n3"]],
    law: PairLaw,
    *,
    dimensions: int,
) -> Float[Tensor, "group n1 n2 n3"]:
    """Twice the weight of each k-vector in the energy, so that of a k-vector that stands for −k too; 1/Å.

    Args:
        cell: See `completed_cells`.
        orders: Integers n of k = n₁b₁ + n₂b₂ + n₃b₃, each distinct.
        law: σ and κ.
        dimensions: In how many directions the structures repeat.
    """
    reciprocal = 2 * math.pi * torch.linalg.inv(cell).transpose(1, 2)
    n1, n2, n3 = orders[0][:, None, None], orders[1][:, None], orders[2]
    squared = _squared_norm(reciprocal, (n1, n2, n3))
    if dimensions == 3:
        kernel = bulk_kernel(squared, inverse_screening=law.inverse_screening)
    else:
        half = cell[:, 2].square().sum(1).sqrt()[:, None, None, None] / 2
        none = torch.zeros_like(n3[:1])
        if dimensions == 2:
            lateral = _squared_norm(reciprocal, (n1, n2, none))
            kernel = slab_kernel(lateral, n3, half_height=half, inverse_screening=law.inverse_screening)
        else:
            axial = _squared_norm(reciprocal, (n1, none[:, None], none)).sqrt()
            radial = _squared_norm(reciprocal, (none[:, None, None], n2, n3)).sqrt()
            kernel = wire_kernel(axial, radial, radius=half, inverse_screening=law.inverse_screening)
    volume = torch.linalg.det(cell).abs()[:, None, None, None]
    return kernel * gaussian_weights(squared, smearing=law.smearing) / volume


def gaussian_weights(squared: Float[Tensor, "*shape"], *, smearing: float) -> Float[Tensor, "*shape"]:
    """e^{−σ²k²}, smoothly (to the second derivative) zero beyond the end of `TAPER`."""
    exponents = squared * smearing**2
    start, end = TAPER
    step = ((exponents - start) / (end - start)).clamp(0, 1)
    return torch.exp(-exponents) * (1 - step**3 * (10 - 15 * step + 6 * step**2))


def _squared_norm(
    reciprocal: Float[Tensor, "group 3 3"], orders: tuple[Tensor, Tensor, Tensor]
) -> Float[Tensor, "group n1 n2 n3"]:
    """|n₁b₁ + n₂b₂ + n₃b₃|², from the matrix of products b·b."""
    metric = (reciprocal @ reciprocal.transpose(1, 2))[:, :, :, None, None, None]
    n1, n2, n3 = orders
    return (
        n1**2 * metric[:, 0, 0]
        + n2**2 * metric[:, 1, 1]
        + n3**2 * metric[:, 2, 2]
        + 2 * (n1 * n2 * metric[:, 0, 1] + n1 * n3 * metric[:, 0, 2] + n2 * n3 * metric[:, 1, 2])
    )
