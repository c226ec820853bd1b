"""Units of labels: energies that are counted per mole say so."""

from __future__ import annotations

import pytest

from foundation.errors import InputError
from foundation.units import KCAL_PER_MOL_IN_EV, conversion_factor, parse_unit


@pytest.mark.parametrize("unit", ["kcal/mol", "kcal*mol^-1", "mol^-1*kcal"])
def test_energies_per_mole_are_those_of_one_structure(unit: str):
    assert conversion_factor(unit, "eV") == pytest.approx(KCAL_PER_MOL_IN_EV)
    assert conversion_factor("kJ/mol/Å", "eV/Å") == pytest.approx(KCAL_PER_MOL_IN_EV / 4.184)


@pytest.mark.parametrize(
    ("unit", "nearest"),
    [("kcal", "kcal/mol"), ("kcal/Å", "kcal/mol/Å"), ("kJ/Å", "kJ/mol/Å"), ("cal/K", "cal/mol/K")],
)
def test_an_energy_of_a_mole_without_the_mole_is_refused(unit: str, nearest: str):
    with pytest.raises(InputError, match=f"unit '{unit}': .* stands without /mol; nearest: '{nearest}'"):
        parse_unit(unit)
