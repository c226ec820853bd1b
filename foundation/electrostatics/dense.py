"""The dense interaction matrix of each graph of a batch, for linear solves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics.lattice import ReciprocalBox, periodic_groups, reciprocal_box
from foundation.electrostatics.radial import PairLaw, radial_at_zero, radial_functions
from foundation.electrostatics.slots import Slots, atom_slots
from foundation.nn.gather import add_rows

CHUNK_ELEMENTS = 2**22
"""Waves of all atoms that are held at a time: 32 MiB for each of their parts."""


def interaction_matrix(graph: AtomGraph, law: PairLaw, *, with_dipoles: bool) -> Float[Tensor, "graphs rows rows"]:
    """Interaction of all charges (and dipoles) of each graph, self terms left out, without the Coulomb constant."""
    width = int(graph.num_atoms_per_graph.max())
    rows = width * (4 if with_dipoles else 1)
    repeats = graph.pbc.any(dim=1)
    matrix = graph.positions.new_zeros(graph.num_graphs, rows, rows)
    everyone = torch.ones(width, width, dtype=torch.bool, device=matrix.device)
    free = torch.nonzero(~repeats)[:, 0]
    if len(free) > 0:
        slots = atom_slots(graph, free, width=width)
        blocks = _free_blocks(slots.gather(graph.positions), law, with_dipoles=with_dipoles)
        blocks = _masked(blocks, slots, ~torch.eye(width, dtype=torch.bool, device=matrix.device))
        matrix = matrix + add_rows(blocks.reshape(-1, rows, rows), free, size=graph.num_graphs)
    for group in periodic_groups(graph, repeats, law):
        box = reciprocal_box(graph, group, law, width=width)
        blocks = _periodic_blocks(box, with_dipoles=with_dipoles)
        own = radial_at_zero(law, orders=2)
        diagonal = blocks.new_tensor([own[0]] if not with_dipoles else [own[0], *[own[1]] * 3])
        diagonal = torch.diag(diagonal.repeat_interleave(width)).reshape(blocks.shape[1:])
        blocks = _masked(blocks - diagonal, box.slots, everyone)
        matrix = matrix + add_rows(blocks.reshape(-1, rows, rows), group.graphs, size=graph.num_graphs)
    return matrix


def _masked(
    blocks: Float[Tensor, "group parts slots parts slots"], slots: Slots, pairs: Bool[Tensor, "slots slots"]
) -> Float[Tensor, "group parts slots parts slots"]:
    kept = slots.filled[:, :, None] & slots.filled[:, None, :] & pairs
    return torch.where(kept[:, None, :, None, :], blocks, 0.0)


def _free_blocks(
    positions: Float[Tensor, "group slots 3"], law: PairLaw, *, with_dipoles: bool
) -> Float[Tensor, "group parts slots parts slots"]:
    """Interaction of each part (charge, dipole x, y, z) with each part, all pairs of places."""
    vectors = positions[:, :, None] - positions[:, None]
    functions = radial_functions(vectors.square().sum(3), law, orders=3 if with_dipoles else 1)
    if not with_dipoles:
        return functions[0][:, None, :, None, :]
    mixed = (vectors * functions[1][..., None]).permute(0, 3, 1, 2)
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    tensor = identity * functions[1][..., None, None] - (
        vectors[..., :, None] * vectors[..., None, :] * functions[2][..., None, None]
    )
    upper = torch.cat([functions[0][:, None], mixed], dim=1)
    lower = torch.cat([-mixed[:, :, None], tensor.permute(0, 3, 4, 1, 2)], dim=2)
    return torch.cat([upper[:, None], lower], dim=1).transpose(2, 3)


def _periodic_blocks(box: ReciprocalBox, *, with_dipoles: bool) -> Float[Tensor, "group parts slots parts slots"]:
    """Σ_k 2 w(k) Re(a_i(k) a_j(k)*), where a = e^{ik·r} for a charge and i k e^{ik·r} for a dipole."""
    grid = torch.stack(torch.meshgrid(*box.orders, indexing="ij"), dim=-1).reshape(-1, 3)
    weights = box.weights.flatten(1)
    used = torch.nonzero((weights != 0).any(0))[:, 0]
    group, num_slots, _ = box.positions.shape
    parts = 4 if with_dipoles else 1
    total = box.positions.new_zeros(group, parts * num_slots, parts * num_slots)
    for chunk in used.split(max(1, CHUNK_ELEMENTS // (group * parts * num_slots))):
        waves = grid[chunk] @ box.reciprocal
        angles = box.positions @ waves.transpose(1, 2)
        real, imaginary = angles.cos()[:, None], angles.sin()[:, None]
        if with_dipoles:
            along = waves.transpose(1, 2)[:, :, None]
            real, imaginary = (
                torch.cat([real, -along * imaginary], dim=1),
                torch.cat([imaginary, along * real], dim=1),
            )
        rows = torch.cat([real, imaginary], dim=3).flatten(1, 2)
        scaled = rows * (2 * weights[:, chunk]).repeat(1, 2)[:, None]
        total = total + scaled @ rows.transpose(1, 2)
    return total.reshape(group, parts, num_slots, parts, num_slots)
