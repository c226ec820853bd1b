"""Whether a total charge and a spin multiplicity fit the number of electrons of a structure.

Checked wherever a structure comes from a user: in the readers' converter and where predictions are asked for.
"""

from __future__ import annotations

import math

from jaxtyping import Int
from numpy import ndarray

from foundation.errors import InputError
from foundation.wording import counted

__all__ = ["check_electrons"]

WHOLE = 1e-6
"""e; by how much a charge may miss a whole number for rounding in a file."""


def check_electrons(
    atomic_numbers: Int[ndarray, " atoms"],
    *,
    total_charge: float,
    spin_multiplicity: int,
    periodic: bool,
    implicit_hydrogens: int = 0,
    where: str,
) -> None:
    """Refuse a charge and a multiplicity that no number of electrons can have.

    The parity is that of free molecules: a periodic cell is an average over many, and crystals with an odd number of
    electrons in the cell are commonly computed without spin. For the same reason the charge of a cell may be a fraction
    of e, as of a doped crystal; that of a molecule may not, as it has a whole number of electrons.

    Args:
        atomic_numbers: Of all atoms of the structure.
        total_charge: e.
        spin_multiplicity: 2S+1, at least 1.
        periodic: Whether the structure repeats in any direction.
        implicit_hydrogens: Hydrogen atoms of the molecule that are not among its atoms.
        where: What to call the structure in an error.

    Raises:
        InputError: The charge of a molecule is no whole number of e, the charge takes more electrons than there are, or
            the multiplicity does not fit the electrons.
    """
    if atomic_numbers.min() < 1:
        return  # a dummy atom, which is refused where elements are checked
    protons = int(atomic_numbers.sum()) + implicit_hydrogens
    electrons = protons - total_charge
    if electrons < 0:
        raise InputError(
            f"{where}: total charge {total_charge:g}, but the atoms have only {counted(protons, 'electron')}; "
            f"allowed: at most {protons}"
        )
    if not periodic and abs(electrons - round(electrons)) > WHOLE:
        raise InputError(
            f"{where}: total charge {total_charge:g} is not an integer; a molecule has a whole number of electrons; "
            f"allowed: {math.floor(total_charge)} or {math.ceil(total_charge)} (only a periodic cell, an average over "
            "many, may carry a fraction)"
        )
    unpaired = spin_multiplicity - 1
    odd = round(electrons) % 2
    paired_off = periodic or unpaired % 2 == odd
    if unpaired <= electrons and paired_off:
        return
    allowed = range(1 + odd, min(round(electrons) + 1, 6 + odd) + 1, 2)
    listed = ", ".join(map(str, allowed)) + (", …" if allowed[-1] < round(electrons) - 1 else "")
    needed = f"{unpaired} or more" if unpaired > electrons else f"an {'odd' if unpaired % 2 else 'even'} number"
    raise InputError(
        f"{where}: spin multiplicity {spin_multiplicity} with total charge {total_charge:g}: the structure then has "
        f"{electrons:g} electron{'' if electrons == 1 else 's'}; multiplicity {spin_multiplicity} needs {needed}; "
        f"allowed with this charge: 2S+1 = {listed}; or another charge"
    )
