"""External fields of structures: what is refused where they repeat."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.data.graph import AtomGraph, build_graph
from foundation.errors import InputError


def in_field(field: tuple[float, ...], *, tilt: float) -> AtomGraph:
    """A slab across z of which one lattice vector is tilted by so many Å."""
    return build_graph(
        positions=[[0.0, 0.0, 0.0]],
        atomic_numbers=[6],
        total_charge=0.0,
        spin_multiplicity=1,
        cell=np.array([[10.0, 0.0, tilt], [0.0, 8.0, 0.0], [0.0, 0.0, 0.0]]),
        pbc=[True, True, False],
        external_field=field,
    )


@pytest.mark.parametrize("strength", [1e-3, 0.1, 50.0])
def test_a_field_across_a_slab_may_miss_the_normal_by_the_cells_rounding(strength: float) -> None:
    assert in_field((0.0, 0.0, strength), tilt=1e-8).external_field.tolist() == [[0.0, 0.0, strength]]


@pytest.mark.parametrize("strength", [1e-10, 0.1])
@pytest.mark.parametrize("tilt", [1e-3, 1.0])
def test_a_field_along_a_repeating_direction_is_refused_however_weak(strength: float, tilt: float) -> None:
    with pytest.raises(InputError, match="a part along a direction in which the structure repeats"):
        in_field((0.0, 0.0, strength), tilt=tilt)
