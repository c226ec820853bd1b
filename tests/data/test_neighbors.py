"""How many neighbours a periodic structure may have, and what is said of more."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.data.neighbors import MOST_NEIGHBORS, neighbor_list
from foundation.errors import InputError


def test_a_cutoff_far_beyond_the_cell_is_one_message() -> None:
    thin = 0.1 * np.eye(3)
    with pytest.raises(InputError, match=r"crystal: about 5\.24e\+05 atoms and images .* of 5 Å .*; allowed: 20000"):
        neighbor_list(positions=np.zeros((1, 3)), cell=thin, pbc=np.array([True] * 3), cutoff=5.0, where="crystal")


@pytest.mark.parametrize("periods", [1, 2, 3])
def test_neighbors_are_estimated_well_for_thick_slabs_and_wires(periods: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simple cubic, 1 Å apart, 20 Å thick where it does not repeat: 257 atoms within 4 Å, fewer at surfaces."""
    pbc = np.arange(3) < periods
    sizes = np.where(pbc, 2, 20)
    positions = np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), axis=-1).reshape(-1, 3) + 0.0
    cell = np.diag(np.where(pbc, 2.0, 0.0))
    receivers, _, _ = neighbor_list(positions=positions, cell=cell, pbc=pbc, cutoff=4.0)
    found = len(receivers) / len(positions)
    monkeypatch.setattr("foundation.data.neighbors.MOST_NEIGHBORS", 3 * found)
    neighbor_list(positions=positions, cell=cell, pbc=pbc, cutoff=4.0)
    monkeypatch.setattr("foundation.data.neighbors.MOST_NEIGHBORS", 0.9 * found)
    with pytest.raises(InputError, match="atoms and images"):
        neighbor_list(positions=positions, cell=cell, pbc=pbc, cutoff=4.0)
    assert found < MOST_NEIGHBORS
