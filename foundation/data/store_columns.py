"""From the columns of one structure in a store to the fields of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor, from_numpy

from foundation.data.store_format import TARGET_PREFIX
from foundation.properties import PROPERTIES

__all__ = ["fields_of_columns"]

_ZERO_CELL = np.zeros((1, 3, 3))
_PERIODIC = ((np.arange(8)[:, None, None] >> np.arange(3)) & 1).astype(bool)
"""`[8, 1, 3]`: which axes repeat, for each value of the column `pbc`."""
_LABELLED = np.ones(512, dtype=bool)
"""Copied for structures of as many atoms at most: half the time of a new array of ones."""
_PROPERTY_OF = {TARGET_PREFIX + name: name for name in PROPERTIES}


def fields_of_columns(arrays: Mapping[str, np.ndarray], place: Int[np.ndarray, " 4"]) -> dict[str, Any]:
    """Fields of a graph from the columns of one structure.

    Args:
        arrays: The columns.
        place: Level of theory, data set, row of the store, number of atoms.
    """
    numbers = arrays["atomic_numbers"].astype(np.int64)
    num_atoms = len(numbers)
    cell = arrays["cell"].reshape(1, 3, 3) if "cell" in arrays else _ZERO_CELL
    targets: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for column, values in arrays.items():
        if column in _PROPERTY_OF:
            name = _PROPERTY_OF[column]
            targets[name], masks[name] = _label(name, values, num_atoms)
    return {
        "positions": from_numpy(arrays["positions"].reshape(-1, 3).copy()),
        "atomic_numbers": from_numpy(numbers),
        "cell": from_numpy(cell.copy()),
        "pbc": from_numpy(_PERIODIC[arrays["pbc"].item()].copy()),
        "total_charge": from_numpy(arrays["total_charge"].copy()),
        "spin_multiplicity": from_numpy(arrays["spin_multiplicity"].astype(np.int64)),
        "targets": targets,
        "masks": masks,
        "graph_index": from_numpy(np.zeros(num_atoms, dtype=np.int64)),
        "num_atoms_per_graph": from_numpy(place[3:4]),
        "num_graphs": 1,
        "level_index": from_numpy(place[0:1]),
        "dataset_index": from_numpy(place[1:2]),
        "structure_index": from_numpy(place[2:3]),
    }


def _label(name: str, flat: np.ndarray, num_atoms: int) -> tuple[Tensor, Tensor]:
    prop = PROPERTIES[name]
    rows = num_atoms if prop.level == "atom" else 1
    values = from_numpy(flat.reshape(rows, *prop.shape).copy())
    if not math.isnan(np.add.reduce(flat)):
        labelled = _LABELLED[:rows].copy() if rows <= len(_LABELLED) else np.ones(rows, dtype=bool)
        return values, from_numpy(labelled)
    missing = values.reshape(rows, -1).isnan().all(dim=1)
    values[missing] = 0.0
    return values, ~missing
