"""Names of elements in messages and reports."""

from __future__ import annotations

from collections.abc import Iterable

from ase.data import chemical_symbols

__all__ = ["element_names"]


def element_names(atomic_numbers: Iterable[int]) -> str:
    """`H C O`, ascending; a number that is no element's stands as it is."""
    return " ".join(
        chemical_symbols[number] if 0 <= number < len(chemical_symbols) else str(number)
        for number in sorted(atomic_numbers)
    )
