"""Moments of charge whose value depends on the origin: brought to the centre of mass, which predictions are about."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses
from jaxtyping import Float, Int

from foundation.data.fields import LabelField
from foundation.errors import InputError

__all__ = ["ORIGIN_MATTERS", "about_centre_of_mass"]

ORIGIN_MATTERS = ("dipole", "quadrupole")


def about_centre_of_mass(
    targets: dict[str, np.ndarray],
    fields: dict[str, LabelField],
    *,
    positions: Float[np.ndarray, "atoms 3"],
    atomic_numbers: Int[np.ndarray, " atoms"],
    total_charge: float,
    where: str,
) -> dict[str, np.ndarray]:
    """Dipole and quadrupole of a free structure, about its centre of mass.

    Args:
        targets: All labels of the structure, internal units.
        fields: What the card says of them.
        positions: Å, in the file's frame.
        atomic_numbers: Of the same atoms.
        total_charge: e.
        where: File and frame, for errors.

    Returns:
        The labels, moments about the origin of coordinates moved: p - Q c, and Σ q r rᵀ - c pᵀ - p cᵀ + Q c cᵀ.

    Raises:
        InputError: The origin of a moment that depends on it is not stated, or a quadrupole is to be moved without the
            dipole that this takes.
    """
    problems = []
    for name in ORIGIN_MATTERS:
        depends = name in targets and (name == "quadrupole" or total_charge != 0)
        if depends and fields[name].origin is None:
            why = f"total charge {total_charge:g}: " if name == "dipole" else ""
            problems.append(
                f"{where}: label '{name}' (key '{fields[name].key}'): {why}its value depends on the origin, which is "
                "not stated; state origin: centre_of_mass, or origin: coordinates (the file's own origin)"
            )
    to_move = [name for name in ORIGIN_MATTERS if name in targets and fields[name].origin == "coordinates"]
    if "quadrupole" in to_move and "dipole" not in targets:
        problems.append(
            f"{where}: label 'quadrupole': origin: coordinates: moving it to the centre of mass takes the dipole; "
            "declare that label too"
        )
    if problems:
        raise InputError(problems)
    if not to_move:
        return targets
    mass = atomic_masses[atomic_numbers]
    centre = mass @ positions / mass.sum()
    moved = dict(targets)
    if "quadrupole" in to_move:
        dipole = targets["dipole"]
        if fields["dipole"].origin == "centre_of_mass":
            dipole = dipole + total_charge * centre
        mixed = np.outer(centre, dipole)
        moved["quadrupole"] = targets["quadrupole"] - mixed - mixed.T + total_charge * np.outer(centre, centre)
    if "dipole" in to_move:
        moved["dipole"] = targets["dipole"] - total_charge * centre
    return moved
