"""What predictions for cells say aloud: what a charged one's energy means, and where Born charges need a longer one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from ase import Atoms
from ase.build import bulk

from foundation.calculators.ase import FoundationCalculator
from foundation.model import FoundationModel

MakeModel = Callable[..., FoundationModel]
HEADS = {"energy": {"kind": "energy"}, "charges": {"kind": "charges"}}
SCREENED = {"kind": "coulomb", "screening_length": 3.0}
KINDS = {
    "crystal: a uniform background": (True, True, True),
    "slab: a charged plane": (True, True, False),
    "wire: a charged line": (True, False, False),
}


def cell(*, pbc: tuple[bool, ...], charge: int) -> Atoms:
    atoms = bulk("CO", "rocksalt", a=5.0)
    atoms.pbc = pbc
    atoms.info.update(total_charge=charge, spin_multiplicity=1)
    return atoms


@pytest.mark.parametrize("kind", KINDS)
def test_energies_of_charged_cells_are_said_to_be_a_convention(make_model: MakeModel, kind: str) -> None:
    model = make_model(HEADS, electrostatics=True)
    structures = [cell(pbc=KINDS[kind], charge=2), cell(pbc=KINDS[kind], charge=0), cell(pbc=(False,) * 3, charge=2)]
    with pytest.warns(
        UserWarning, match=f"1 of 3 structures are periodic .* is a convention .1 {kind}.* same cell and"
    ):
        model.predict(structures, properties=["energy"])
    with pytest.warns(UserWarning, match="a supercell with a multiple of both is another system to the model"):
        FoundationCalculator(model).get_potential_energy(structures[0])


def test_only_what_holds_is_said(make_model: MakeModel) -> None:
    charged = cell(pbc=(True, True, True), charge=2)
    told, blind = (make_model(HEADS, electrostatics=SCREENED, use_charge=told) for told in (True, False))
    with pytest.warns(UserWarning, match="carry a net charge: features are told the charge and spin of the whole cell"):
        told.predict(charged, properties=["energy"])
    with pytest.warns(UserWarning, match="comparable between structures of the same cell and charge only$"):
        make_model(HEADS, electrostatics=True, use_charge=False).predict(charged, properties=["energy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blind.predict(charged, properties=["energy"])
        told.predict([cell(pbc=(True, True, True), charge=0), cell(pbc=(False,) * 3, charge=2)], properties=["energy"])


def test_short_cells_are_named_where_born_charges_are_asked_for(make_model: MakeModel) -> None:
    model = make_model(HEADS, electrostatics=True)
    atoms = bulk("CO", "rocksalt", a=6.0, cubic=True)
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    slab = atoms.repeat((2, 1, 2))
    slab.pbc = (True, True, False)
    said = r"2 of 3 structures are lower than 8 Å .*: 6\.0 Å, atoms\.repeat\(\(2, 2, 2\)\); .*repeat\(\(1, 2, 1\)\)$"
    with pytest.warns(UserWarning, match=said):
        model.predict([atoms, slab, atoms.repeat(2)], properties=["born_charges"])
    with pytest.warns(UserWarning, match="born_charges: 1 of 1 structures are lower than 8 Å"):
        FoundationCalculator(model).get_property("born_effective_charges", atoms)
    with pytest.warns(UserWarning, match="; and 2 more$"):
        model.predict([atoms] * 7, properties=["born_charges"])


def test_long_cells_molecules_and_other_properties_are_passed_over(make_model: MakeModel) -> None:
    model = make_model(HEADS, electrostatics=True)
    neutral = cell(pbc=(True, True, True), charge=0)
    tensor = make_model({"energy": {"kind": "energy"}, "dipole": {"kind": "tensor", "property_name": "dipole"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict([neutral.repeat(3), cell(pbc=(False,) * 3, charge=0)], properties=["born_charges"])
        model.predict(neutral, properties=["energy", "forces"])
        tensor.predict(neutral, properties=["born_charges"])
