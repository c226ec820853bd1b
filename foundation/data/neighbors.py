"""Neighbour lists for free, partly periodic and triclinic systems, through `vesin`.

No neighbour is left out, and an atom sees its own images when the cell is smaller than the cutoff.
`vesin` was the fastest of five lists measured for up to a few thousand atoms.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from vesin import NeighborList

from foundation.data.graph import MINIMUM_DISTANCE, AtomGraph, fill_slots
from foundation.errors import InputError

MAXIMUM_CUTOFF = 100.0
"""Å, of any model; beyond 10 the neighbours of a dense crystal are hundreds."""
MOST_NEIGHBORS = 20_000
"""Of an atom of a periodic structure: each pair takes 72 bytes as it is found, and thousands in a model."""
_ALL_PAIRS_ATOMS = 100
"""Free molecules up to this size are searched pair by pair: `vesin` spends up to a millisecond a call on wrapping its
results, which a molecule of 20 atoms does not take in all."""


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
        Receivers i, senders j and shifts S in numbers of cell vectors, r_ij = r_j + S·cell - r_i; sorted by i, then j,
        then S.

    Raises:
        InputError: Two atoms are on top of each other, or the cutoff is far beyond the cell.
    """
    if pbc.any():
        _refuse_too_many(positions, cell, pbc, cutoff, where=where)
    all_pairs = not pbc.any() and len(positions) <= _ALL_PAIRS_ATOMS
    search = _search_all_pairs(positions, cutoff) if all_pairs else _search_cells(positions, cell, pbc, cutoff)
    receivers, senders, shifts, distances = search
    if len(distances) and distances.min() < MINIMUM_DISTANCE:
        closest = int(distances.argmin())
        raise InputError(
            f"{where}: atoms {int(receivers[closest])} and {int(senders[closest])} are on top of each other "
            f"({distances[closest]:.3g} Å apart; allowed: {MINIMUM_DISTANCE} Å or more)"
        )
    return receivers, senders, shifts


def _refuse_too_many(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, *, where: str) -> None:
    """Raise InputError, before memory runs out, by the mean density of a periodic structure."""
    periods, complete = int(pbc.sum()), _complete_cell(cell, pbc)
    ball = (2 * cutoff, np.pi * cutoff**2, 4 / 3 * np.pi * cutoff**3)[periods - 1]
    # Of a slab or a wire that is thicker than the cutoff reaches, a part.
    across = np.ptp(positions @ complete[~pbc].T, axis=0)
    part = np.prod(2 * cutoff / np.maximum(across, 2 * cutoff))
    num_neighbors = len(positions) * part * ball / abs(np.linalg.det(complete))
    if num_neighbors > MOST_NEIGHBORS:
        raise InputError(
            f"{where}: about {num_neighbors:.3g} atoms and images lie within the cutoff of {cutoff:g} Å of an atom; "
            f"allowed: {MOST_NEIGHBORS}; take a model of a smaller cutoff (5 Å is usual), or see if the cell is in Å"
        )


def _search_all_pairs(positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    differences = positions[None, :, :] - positions[:, None, :]
    distances = np.sqrt(np.einsum("ijx,ijx->ij", differences, differences))
    close = distances < cutoff
    close.reshape(-1)[:: len(positions) + 1] = False
    receivers, senders = np.nonzero(close)
    return receivers, senders, np.zeros((len(receivers), 3), dtype=np.int64), distances[close]


def _search_cells(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=False, n_threads=1)
    receivers, senders, shifts, distances = finder.compute(
        points=positions, box=_complete_cell(cell, pbc), periodic=pbc, quantities="ijSd"
    )
    receivers, senders = receivers.astype(np.int64), senders.astype(np.int64)
    shifts = shifts.astype(np.int64).reshape(-1, 3)
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    return receivers[order], senders[order], shifts[order], distances[order]


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
        InputError: As `neighbor_list`.
    """
    fields = graph.fields
    assert fields["num_graphs"] == 1, "neighbours are found one structure at a time"
    receivers, senders, shifts = neighbor_list(
        positions=fields["positions"].numpy(),
        cell=fields["cell"].numpy()[0],
        pbc=fields["pbc"].numpy()[0],
        cutoff=cutoff,
        where=where,
    )
    fields["receivers"] = torch.from_numpy(receivers)
    fields["senders"] = torch.from_numpy(senders)
    fields["edge_shifts"] = torch.from_numpy(shifts.astype(np.float64))
    return graph


def rebuild_neighbors(batch: AtomGraph, cutoff: float) -> AtomGraph:
    """Find the edges of a batch anew after its atoms moved.

    Args:
        batch: Any number of structures, on any device.
        cutoff: Å.

    Returns:
        A shallow copy with new edges, on the batch's device; `batch` keeps its own.

    Raises:
        InputError: As `neighbor_list`.
    """
    positions, cells, pbc = (part.detach().cpu().numpy() for part in (batch.positions, batch.cell, batch.pbc))
    counts, names = batch.num_atoms_per_graph.tolist(), batch.structure_index.tolist()
    found = []
    offset = 0
    for index, count in enumerate(counts):
        receivers, senders, shifts = neighbor_list(
            positions=positions[offset : offset + count],
            cell=cells[index],
            pbc=pbc[index],
            cutoff=cutoff,
            where=f"structure {names[index]}",
        )
        found.append((receivers + offset, senders + offset, shifts))
        offset += count
    rebuilt = copy.copy(batch)
    device = batch.positions.device
    receivers, senders, shifts = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
    rebuilt.receivers, rebuilt.senders = receivers.to(device), senders.to(device)
    rebuilt.edge_shifts = shifts.to(torch.float64).to(device)
    fill_slots(rebuilt)
    return rebuilt
