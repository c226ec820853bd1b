"""GFN2-xTB energies, forces, charges and dipoles in internal units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from foundation.errors import InputError
from foundation.units import BOHR_IN_ANGSTROM, HARTREE_IN_EV

__all__ = ["LabelledGeometry", "UnlabelledError", "label_geometry", "require_tblite"]

# A hundredth of tblite's default thresholds: the labels are then converged beyond the digits that are kept.
_ACCURACY = 0.01


class UnlabelledError(RuntimeError):
    """The geometry has no labels: the self-consistent field did not converge, or atoms are too close."""


@dataclass(frozen=True)
class LabelledGeometry:
    """What one single-point calculation gives.

    Attributes:
        energy: Total energy, eV.
        forces: Negative gradient of the energy, eV/Å.
        charges: Mulliken charges, e.
        dipole: Dipole about the origin of the coordinates, e·Å.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    charges: Float[np.ndarray, " atoms"]
    dipole: Float[np.ndarray, " 3"]


def require_tblite() -> None:
    """Fail early and clearly where the optional package is missing.

    Raises:
        InputError: tblite cannot be imported.
    """
    try:
        import tblite.interface  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"generating data: the package 'tblite' cannot be imported ({error}); install it with: pip install tblite"
        ) from error


def label_geometry(
    positions: Float[np.ndarray, "atoms 3"], *, numbers: Int[np.ndarray, " atoms"], total_charge: int
) -> LabelledGeometry:
    """Label a closed-shell geometry with GFN2-xTB, always from the same starting guess.

    Args:
        positions: Å.
        numbers: Atomic numbers.
        total_charge: e.

    Raises:
        UnlabelledError: The self-consistent field did not converge, or atoms are too close.

    Source: GFN2-xTB, Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).
    """
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    try:
        calculator = Calculator(
            "GFN2-xTB", np.asarray(numbers), positions / BOHR_IN_ANGSTROM, charge=float(total_charge), uhf=0
        )
        calculator.set("verbosity", 0)
        calculator.set("accuracy", _ACCURACY)
        result = calculator.singlepoint()
    except TBLiteRuntimeError as error:
        raise UnlabelledError(str(error)) from error
    return LabelledGeometry(
        energy=float(result.get("energy")) * HARTREE_IN_EV,
        forces=-result.get("gradient") * (HARTREE_IN_EV / BOHR_IN_ANGSTROM),
        charges=result.get("charges"),
        dipole=result.get("dipole") * BOHR_IN_ANGSTROM,
    )
