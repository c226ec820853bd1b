"""The dense interaction matrix of each graph of a batch, for linear solves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics.radial import radial_functions
from foundation.nn.gather import take_rows


def atom_slots(
    num_atoms_per_graph: Int[Tensor, " graphs"],
) -> tuple[Int[Tensor, "graphs slots"], Bool[Tensor, "graphs slots"]]:
    """The atoms of each graph in a table as wide as the largest graph, and which of its places are filled.

    An empty place names atom 0.
    """
    width = int(num_atoms_per_graph.max())
    slots = torch.arange(width, device=num_atoms_per_graph.device)
    filled = slots < num_atoms_per_graph[:, None]
    starts = torch.cumsum(num_atoms_per_graph, 0) - num_atoms_per_graph
    return torch.where(filled, starts[:, None] + slots, 0), filled


def interaction_matrix(
    graph: AtomGraph, *, with_dipoles: bool, smearing: float, inverse_screening: float
) -> Float[Tensor, "graphs rows rows"]:
    """Interaction of all charges (and dipoles) of each graph, self terms left out, without the Coulomb constant."""
    atoms, filled = atom_slots(graph.num_atoms_per_graph)
    positions = take_rows(graph.positions, atoms.reshape(-1)).reshape(*atoms.shape, 3)
    blocks = _free_blocks(positions, with_dipoles=with_dipoles, smearing=smearing, inverse_screening=inverse_screening)
    others = ~torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
    kept = filled[:, :, None] & filled[:, None, :] & others
    blocks = torch.where(kept[:, None, :, None, :], blocks, 0.0)
    rows = blocks.shape[1] * blocks.shape[2]
    return blocks.reshape(-1, rows, rows)


def _free_blocks(
    positions: Float[Tensor, "graphs slots 3"], *, with_dipoles: bool, smearing: float, inverse_screening: float
) -> Float[Tensor, "graphs parts slots parts slots"]:
    """Interaction of each part (charge, dipole x, y, z) with each part, all pairs of places."""
    vectors = positions[:, :, None] - positions[:, None]
    functions = radial_functions(
        vectors.square().sum(3), smearing=smearing, inverse_screening=inverse_screening, orders=3 if with_dipoles else 1
    )
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
