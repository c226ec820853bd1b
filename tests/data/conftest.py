"""Structures for the stores of several tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

from foundation.data.readers.record import Record


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """Makes the record of a neutral free molecule of one element; its energy is its number."""

    def make(number: int, positions: Float[np.ndarray, "atoms 3"], *, element: int) -> Record:
        return Record(
            positions=positions,
            atomic_numbers=np.full(len(positions), element),
            cell=None,
            pbc=(False, False, False),
            total_charge=0.0,
            spin_multiplicity=1,
            targets={"energy": np.array(float(number))},
            group="",
            split=None,
            smiles=None,
            where=f"frame {number}",
        )

    return make
