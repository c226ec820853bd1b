"""Total charge and multiplicity have to fit the electrons, wherever a structure comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from foundation.data.card import DatasetConfig, resolve
from foundation.data.electrons import check_electrons
from foundation.data.readers import read_records
from foundation.errors import InputError
from foundation.predict.structures import from_atoms

OXYGEN, COPPER, PROTON = np.array([8, 8]), np.array([29]), np.array([1])


@pytest.mark.parametrize(
    ("numbers", "charge", "spin"),
    [(OXYGEN, 0, 1), (OXYGEN, 0, 3), (OXYGEN, -1, 2), (OXYGEN, 0, 17), (COPPER, 0, 2), (PROTON, 1, 1), (PROTON, 0, 2)],
)
def test_possible_states_pass(numbers: np.ndarray, charge: int, spin: int):
    check_electrons(numbers, total_charge=float(charge), spin_multiplicity=spin, periodic=False, where="x")


@pytest.mark.parametrize(
    ("numbers", "charge", "spin", "message"),
    [
        (OXYGEN, 0, 2, r"x: spin multiplicity 2 with total charge 0: .* 16 electrons.*allowed.*2S\+1 = 1, 3, 5, …;"),
        (
            OXYGEN,
            1,
            1,
            r"15 electrons; multiplicity 1 needs an even number; allowed .*: 2S\+1 = 2, 4, 6, …",
        ),
        (OXYGEN, 0, 19, "16 electrons; multiplicity 19 needs 18 or more; allowed"),
        (OXYGEN, 0, 2, "16 electrons; multiplicity 2 needs an odd number; allowed"),
        (PROTON, 0, 1, r"then has 1 electron; multiplicity 1 needs an even number; .* 2S\+1 = 2;"),
        (PROTON, 1, 2, r"0 electrons; .* 2S\+1 = 1;"),
        (PROTON, 2, 1, "total charge 2, but the atoms have only 1 electron; allowed: at most 1"),
    ],
)
def test_impossible_states_are_refused(numbers: np.ndarray, charge: int, spin: int, message: str):
    with pytest.raises(InputError, match=message):
        check_electrons(numbers, total_charge=float(charge), spin_multiplicity=spin, periodic=False, where="x")


def test_crystals_and_fractional_charges_have_no_parity_but_still_a_number_of_electrons():
    check_electrons(COPPER, total_charge=0.0, spin_multiplicity=1, periodic=True, where="x")
    check_electrons(COPPER, total_charge=0.5, spin_multiplicity=1, periodic=True, where="x")
    with pytest.raises(InputError, match=r"x: total charge 0\.5 is not an integer; .* allowed: 0 or 1"):
        check_electrons(COPPER, total_charge=0.5, spin_multiplicity=2, periodic=False, where="x")
    with pytest.raises(InputError, match="multiplicity 100 needs 99 or more"):
        check_electrons(COPPER, total_charge=0.0, spin_multiplicity=100, periodic=True, where="x")


def test_readers_refuse_an_impossible_multiplicity_and_name_the_frame(tmp_path: Path):
    path = tmp_path / "a.xyz"
    frames = [f"2\nPBC=F spin={spin}\nO 0 0 0\nH 0 0 1\n" for spin in (2, 1)]
    path.write_text("".join(frames), encoding="utf-8")
    facts = {"source": str(path), "level_of_theory": "x", "charge": 0, "spin": {"key": "spin"}, "properties": {}}
    records = read_records(resolve(DatasetConfig.model_validate(facts)))
    assert next(records).spin_multiplicity == 2
    with pytest.raises(InputError, match=r"a\.xyz: frame 1: spin multiplicity 1 with total charge 0: .* 9 electrons"):
        next(records)


def test_hydrogens_that_an_sd_file_leaves_out_still_have_electrons(tmp_path: Path):
    methyl_amine_without_hydrogens = (
        "\n  x          3D\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n"
        "    0.0000    0.0000    0.0000 C   0  0\n    1.4700    0.0000    0.1000 N   0  0\n  1  2  1  0\nM  END\n$$$$\n"
    )
    path = tmp_path / "a.sdf"
    path.write_text(methyl_amine_without_hydrogens, encoding="utf-8")
    facts = {"source": str(path), "level_of_theory": "x", "charge": "formal", "properties": {}}
    facts |= {"hydrogens": "as_given", "spin": 1}
    [record] = read_records(resolve(DatasetConfig.model_validate(facts)))
    assert record.atomic_numbers.tolist() == [6, 7], "13 protons, but 18 electrons with the five hydrogens"
    with pytest.raises(InputError, match="18 electrons"):
        list(read_records(resolve(DatasetConfig.model_validate({**facts, "spin": 2}))))


def test_bare_atoms_of_an_impossible_state_are_refused_for_predictions():
    water = molecule("H2O")
    assert from_atoms(water, name="w", where="input 3", charge=1, spin=2).spin_multiplicity == 2
    with pytest.raises(InputError, match=r"input 3: spin multiplicity 1 with total charge 1: .* 9 electrons"):
        from_atoms(water, name="w", where="input 3", charge=1, spin=1)
    copper = Atoms("Cu", cell=np.eye(3) * 2.5, pbc=True)
    assert from_atoms(copper, name="c", where="x", charge=0, spin=1).pbc.all()
