"""Neighbour lists for free, partly periodic and triclinic systems, through `vesin`.

There is no cap on the number of neighbours, and an atom sees its own images when the cell is smaller than the cutoff.
`vesin` was the fastest of five lists measured for up to a few thousand atoms.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from vesin import NeighborList

from foundation.data.graph import MINIMUM_DISTANCE, AtomGraph, padded_slots
from foundation.errors import InputError


def neighbor_list(
    *,
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: np.ndarray,
    cutoff: float,
    where: str = "structure",
) -> tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"], Int[np.ndarray, "edges 3"]]:
    """Find every ordered pair of atoms (or images) closer than `cutoff`.

    Args:
        positions: Å.
        cell: Rows are lattice vectors, Å; ignored in directions that do not repeat.
        pbc: `[3]` bool.
        cutoff: Å.
        where: What to call the structure in an error.

    Returns:
        Receivers i, senders j and shifts S in numbers of cell vectors, r_ij = r_j + S·cell - r_i; sorted by i, then j, then S.

    Raises:
        InputError: Two atoms are on top of each other.
    """
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=False, n_threads=1)
    receivers, senders, shifts, distances = finder.compute(
        points=positions, box=_complete_cell(cell, pbc), periodic=pbc, quantities="ijSd"
    )
    if len(distances) and distances.min() < MINIMUM_DISTANCE:
        closest = int(distances.argmin())
        raise InputError(
            f"{where}: atoms {int(receivers[closest])} and {int(senders[closest])} are on top of each other "
            f"({distances[closest]:.3g} Å apart; allowed: {MINIMUM_DISTANCE} Å or more)"
        )
    receivers, senders = receivers.astype(np.int64), senders.astype(np.int64)
    shifts = shifts.astype(np.int64).reshape(-1, 3)
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    return receivers[order], senders[order], shifts[order]


def _complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace the vectors of directions that do not repeat, so that the box always has a volume."""
    if pbc.all():
        return cell
    complete = np.where(pbc[:, None], cell, 0.0)
    basis = np.linalg.svd(complete[pbc])[2] if pbc.any() else np.eye(3)
    spare = iter(basis[int(pbc.sum()) :])
    for direction in np.flatnonzero(~pbc):
        complete[direction] = next(spare)
    return complete


def with_neighbors(graph: AtomGraph, cutoff: float, *, where: str = "structure") -> AtomGraph:
    """Give one structure its edges within `cutoff` (Å), in place.

    Raises:
        InputError: Two atoms are on top of each other.
    """
    assert graph.num_graphs == 1, "neighbours are found one structure at a time"
    receivers, senders, shifts = neighbor_list(
        positions=graph.positions.numpy(),
        cell=graph.cell[0].numpy(),
        pbc=graph.pbc[0].numpy(),
        cutoff=cutoff,
        where=where,
    )
    graph.receivers = torch.from_numpy(receivers)
    graph.senders = torch.from_numpy(senders)
    graph.edge_shifts = torch.from_numpy(shifts).to(torch.float64)
    graph.max_neighbors, graph.edge_slots = padded_slots(graph.receivers, graph.positions.shape[0])
    return graph
