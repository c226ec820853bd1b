"""From the columns of one structure in a store to the fields of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from foundation.data.store_format import TARGET_PREFIX
from foundation.properties import PROPERTIES

__all__ = ["fields_of_columns"]

_AXES = np.arange(3, dtype=np.uint8)
_ZERO_CELL = np.zeros((1, 3, 3))


def fields_of_columns(arrays: Mapping[str, np.ndarray], place: Int[np.ndarray, " 4"]) -> dict[str, Any]:
    """Fields of a graph from the columns of one structure.

    Args:
        arrays: The columns.
        place: Level of theory, data set, row of the store, number of atoms.
    """
    numbers = arrays["atomic_numbers"].astype(np.int64)
    num_atoms = len(numbers)
    cell = arrays["cell"].reshape(1, 3, 3).copy() if "cell" in arrays else _ZERO_CELL.copy()
    fields: dict[str, Any] = {
        "positions": torch.from_numpy(arrays["positions"].reshape(-1, 3).copy()),
        "atomic_numbers": torch.from_numpy(numbers),
        "cell": torch.from_numpy(cell),
        "pbc": torch.from_numpy((arrays["pbc"][:, None] >> _AXES) & 1 > 0),
        "total_charge": torch.from_numpy(arrays["total_charge"].copy()),
        "spin_multiplicity": torch.from_numpy(arrays["spin_multiplicity"].astype(np.int64)),
        "targets": {},
        "masks": {},
        "graph_index": torch.from_numpy(np.zeros(num_atoms, dtype=np.int64)),
        "num_atoms_per_graph": torch.from_numpy(place[3:4]),
        "num_graphs": 1,
        "level_index": torch.from_numpy(place[0:1]),
        "dataset_index": torch.from_numpy(place[1:2]),
        "structure_index": torch.from_numpy(place[2:3]),
    }
    for column, values in arrays.items():
        if column.startswith(TARGET_PREFIX):
            name = column[len(TARGET_PREFIX) :]
            fields["targets"][name], fields["masks"][name] = _label(name, values, num_atoms)
    return fields


def _label(name: str, flat: np.ndarray, num_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    prop = PROPERTIES[name]
    rows = num_atoms if prop.level == "atom" else 1
    values = torch.from_numpy(flat.reshape(rows, *prop.shape).copy())
    if not math.isnan(flat.sum()):
        return values, torch.ones(rows, dtype=torch.bool)
    missing = values.reshape(rows, -1).isnan().all(dim=1)
    values[missing] = 0.0
    return values, ~missing
