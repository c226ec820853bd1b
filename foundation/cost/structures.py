"""The structures that cost is stated for, made on the spot: they need no data and are the same everywhere."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from foundation.predict.structures import from_smiles

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SHAKE = 0.05
"""Å, standard deviation: about the thermal motion at room temperature."""
WATER_SPACING = 3.107
"""Å, the cube root of a molecule's volume at 0.997 g/cm³ (water at 298 K): (18.015 g/mol / N_A / density)^(1/3)."""


def aspirin_molecules(count: int) -> list[Atoms]:
    """Aspirin, 21 atoms, each time shaken anew."""
    structure = from_smiles(ASPIRIN, name="aspirin", where="aspirin")
    generator = np.random.default_rng(0)
    shifts = SHAKE * generator.standard_normal((count, *structure.positions.shape))
    return [Atoms(structure.atomic_numbers, structure.positions + shift) for shift in shifts]


def water_box(molecules_per_side: int) -> Atoms:
    """A periodic cube of water at the density of the liquid: molecules on a grid, each turned at random.

    Args:
        molecules_per_side: 4 gives 192 atoms, 8 gives 1,536, 16 gives 12,288.
    """
    water = molecule("H2O")
    centred = water.positions - water.get_center_of_mass()
    axis = np.arange(molecules_per_side) * WATER_SPACING
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    turns = Rotation.from_quat(np.random.default_rng(0).standard_normal((len(grid), 4))).as_matrix()
    positions = grid[:, None] + np.einsum("nab,mb->nma", turns, centred)
    side = molecules_per_side * WATER_SPACING
    return Atoms(np.tile(water.numbers, len(grid)), positions.reshape(-1, 3), cell=[side] * 3, pbc=True)
