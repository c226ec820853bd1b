"""From a file's values to internal units: units, signs, shapes, masks, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.config import validate
from foundation.data.card import DatasetConfig, resolve
from foundation.data.readers.convert import Converter, formula
from foundation.data.readers.record import RawFrame, Record
from foundation.errors import InputError
from foundation.units import BOHR_IN_ANGSTROM, HARTREE_IN_EV

CELL = np.diag([2.0, 3.0, 4.0])


@pytest.fixture(autouse=True)
def a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xyz").touch()
    monkeypatch.chdir(tmp_path)


def frame(values: Mapping[str, object], **changes: Any) -> RawFrame:
    fields = {
        "positions": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        "atomic_numbers": np.array([8, 1]),
        "cell": None,
        "pbc": (False, False, False),
        "length_unit": "Å",
        "cell_unit": "Å",
        "where": "a.xyz: frame 7",
        **changes,
    }
    return RawFrame(values=values, available=tuple(values), **fields)


def convert(properties: dict[str, Any], raw: RawFrame, **changes: Any) -> Record | None:
    entry = {"source": "a.xyz", "level_of_theory": "x", "charge": 0, "spin": 2, "properties": properties, **changes}
    return Converter(resolve(validate(DatasetConfig, entry, where="test"))).convert(raw)


def target(name: str, label: dict[str, Any], value: object, **changes: Any) -> np.ndarray:
    record = convert({name: {"key": "k", **label}}, frame({"k": value}, **changes))
    assert record is not None
    return record.targets[name]


def test_units_become_internal():
    assert target("energy", {"unit": "kcal/mol"}, 23.060547830619) == pytest.approx(1.0)
    assert target("energy", {"unit": "Ha"}, -1.0) == pytest.approx(-HARTREE_IN_EV)
    forces = target("forces", {"unit": "Ha/bohr"}, np.ones((2, 3)))
    np.testing.assert_allclose(forces, HARTREE_IN_EV / BOHR_IN_ANGSTROM)
    np.testing.assert_allclose(target("dipole", {"unit": "D"}, [0, 0, 1.8546]), [0, 0, 0.38612], atol=1e-5)
    alpha = target("polarizability", {"unit": "e²*bohr²/Ha"}, np.eye(3) * 9.9)
    np.testing.assert_allclose(alpha, np.eye(3) * 9.9 * BOHR_IN_ANGSTROM**2 / HARTREE_IN_EV)
    np.testing.assert_allclose(target("stress", {"unit": "GPa"}, np.eye(3) * 160.2176634), np.eye(3), rtol=1e-6)


def test_positions_and_cells_in_other_units():
    raw = frame({}, length_unit="bohr", cell_unit="nm", cell=CELL, pbc=(True, True, True))
    record = convert({}, raw)
    assert record is not None
    assert record.positions[1, 2] == pytest.approx(BOHR_IN_ANGSTROM)
    assert record.cell is not None
    assert record.cell[2, 2] == pytest.approx(40.0)


def test_conventions_are_undone():
    np.testing.assert_allclose(target("forces", {"unit": "eV/Å", "convention": "gradient"}, np.ones((2, 3))), -1.0)
    assert target("energy", {"unit": "eV", "convention": "per_atom"}, -1.5) == pytest.approx(-3.0)
    periodic = {"cell": CELL, "pbc": (True, True, True)}
    virial = target("stress", {"unit": "eV", "convention": "virial"}, np.eye(3) * 48.0, **periodic)
    np.testing.assert_allclose(virial, -2.0 * np.eye(3))
    pressure = target("stress", {"unit": "GPa", "convention": "compression_positive"}, np.eye(3), **periodic)
    assert pressure[0, 0] == pytest.approx(-1 / 160.21766, rel=1e-6)
    matrices = np.arange(18.0).reshape(2, 9)
    transposed = target("born_charges", {"unit": "e", "convention": "transposed"}, matrices)
    assert transposed[0, 0].tolist() == [0, 3, 6]
    assert target("born_charges", {"unit": "e"}, matrices)[0, 0].tolist() == [0, 1, 2]


def test_six_components_need_their_order():
    label = {"unit": "eV/Å³", "components": ["xx", "yy", "zz", "yz", "xz", "xy"]}
    stress = target("stress", label, [1, 2, 3, 4, 5, 6])
    assert stress.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    with pytest.raises(InputError, match="six numbers need components"):
        target("stress", {"unit": "eV/Å³"}, [1, 2, 3, 4, 5, 6])


def test_shapes_with_single_axes_and_text_are_understood():
    assert target("energy", {"unit": "eV"}, np.array([1.0])).shape == ()
    assert target("energy", {"unit": "eV"}, "-1.5") == -1.5
    assert target("dipole", {"unit": "e*Å"}, [[1.0, 2.0, 3.0]]).tolist() == [1, 2, 3]
    assert target("partial_charges", {"unit": "e"}, np.array([[0.1], [-0.1]])).shape == (2,)


def test_padding_is_taken_off():
    raw = frame({"k": np.arange(9.0).reshape(3, 3)}, kept_atoms=np.array([True, False, True]))
    record = convert({"forces": {"key": "k", "unit": "eV/Å"}}, raw)
    assert record is not None
    assert record.targets["forces"].tolist() == [[0, 1, 2], [6, 7, 8]]


def test_listed_atoms_are_counted_from_the_stated_number_and_hydrogens_are_masked():
    marks = target("site_of_metabolism", {"atom_list_from": 1}, "1")
    assert marks[0] == 1
    assert np.isnan(marks[1])
    with pytest.raises(InputError, match=r"allowed: 1 to 2"):
        target("site_of_metabolism", {"atom_list_from": 1}, "0 1")
    with pytest.raises(InputError, match="name a hydrogen"):
        target("site_of_metabolism", {"atom_list_from": 0}, "1")


def test_classes_given_as_text():
    assert target("handedness", {"classes": {"R": 1, "S": -1}}, "S") == -1
    with pytest.raises(InputError, match="got 'M'; allowed: R, S"):
        target("handedness", {"classes": {"R": 1, "S": -1}}, "M")


def test_an_absent_label_is_masked_only_if_the_card_says_so():
    with pytest.raises(InputError, match=r"a\.xyz: frame 7: label 'energy': no key 'k'; keys that are there: E, F"):
        convert({"energy": {"key": "k", "unit": "eV"}}, frame({"E": 1, "F": 2}))
    record = convert({"energy": {"key": "k", "unit": "eV", "optional": True}}, frame({"E": 1}))
    assert record is not None
    assert record.targets == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, "nan"])
def test_a_label_that_is_not_finite_is_refused(value: object):
    with pytest.raises(InputError, match=r"frame 7: label 'energy' \(key 'k'\) holds NaN"):
        target("energy", {"unit": "eV"}, value)


def test_optional_atom_labels_may_be_nan_for_whole_atoms_only():
    forces = target("forces", {"unit": "eV/Å", "optional": True}, np.array([[1.0, 2, 3], [np.nan] * 3]))
    assert np.isnan(forces[1]).all()
    with pytest.raises(InputError, match="NaN"):
        target("forces", {"unit": "eV/Å", "optional": True}, np.array([[1.0, 2, 3], [1, 2, np.nan]]))


@pytest.mark.parametrize(
    ("name", "label", "value", "message"),
    [
        ("energy", {"unit": "eV"}, "abc", "allowed: numbers"),
        ("energy", {"unit": "eV"}, [1, 2], r"has shape \(2,\)"),
        ("forces", {"unit": "eV/Å"}, np.ones((3, 3)), r"has shape \(3, 3\); allowed: \(2, 3\)"),
        ("forces", {"unit": "eV/Å"}, np.ones((3, 2)), r"has shape \(3, 2\)"),
        ("stress", {"unit": "eV/Å³"}, np.arange(9.0), "not symmetric"),
        ("stress", {"unit": "eV", "convention": "virial"}, np.eye(3), "no cell with a volume"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(name: str, label: dict[str, Any], value: object, message: str):
    with pytest.raises(InputError, match=message):
        target(name, label, value)


def test_charge_and_spin_are_read_where_the_card_says_and_never_guessed():
    record = convert({}, frame({"q": -2, "m": 2}), charge={"key": "q"}, spin={"key": "m"})
    assert record is not None
    assert (record.total_charge, record.spin_multiplicity) == (-2.0, 2)
    with pytest.raises(InputError, match="charge: no key 'q'; keys that are there: m"):
        convert({}, frame({"m": 2}), charge={"key": "q"})
    with pytest.raises(InputError, match=r"spin \(key 'm'\) is 0; allowed: 2S\+1"):
        convert({}, frame({"m": 0}), spin={"key": "m"})
    with pytest.raises(InputError, match="charge: formal, but the format holds no formal charges"):
        convert({}, frame({}), charge="formal")


def test_structures_beyond_the_stated_bound_are_left_out():
    label = {"stress": {"key": "k", "unit": "GPa", "drop_above": 160.0}}
    assert convert(label, frame({"k": np.eye(3) * -161})) is None
    assert convert(label, frame({"k": np.eye(3) * 159})) is not None


def test_groups():
    assert convert({}, frame({"id": 5}), group={"by": "key", "key": "id"}).group == "5"  # type: ignore[union-attr]
    cation = convert({}, frame({"q": 1}), charge={"key": "q"}, spin=1, group={"by": "geometry"})
    anion = convert({}, frame({"q": -1}), charge={"key": "q"}, spin=1, group={"by": "geometry"})
    moved = convert({}, frame({}, positions=np.array([[0.0, 0, 0], [0, 0, 1.01]])), group={"by": "geometry"})
    assert cation is not None
    assert anion is not None
    assert moved is not None
    assert cation.group == anion.group != moved.group
    assert formula(np.array([8, 1, 1])) == "H2O"
    with pytest.raises(InputError, match="group: no key 'id'"):
        convert({}, frame({}), group={"by": "key", "key": "id"})


def test_a_box_round_a_molecule_is_taken_off_only_on_request():
    raw = frame({}, cell=CELL, pbc=(True, True, True))
    boxed, free = convert({}, raw), convert({}, raw, pbc=False)
    assert boxed is not None
    assert free is not None
    assert boxed.pbc == (True, True, True)
    assert (free.cell, free.pbc) == (None, (False, False, False))


DIPOLE_AND_QUADRUPOLE = {"dipole": {"key": "p", "unit": "e*Å"}, "quadrupole": {"key": "q", "unit": "e*Å²"}}


def moments_of(charges: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
    return {"p": charges @ positions, "q": np.einsum("i,ia,ib->ab", charges, positions, positions)}


@pytest.mark.parametrize("dipole_about", ["coordinates", "centre_of_mass"])
def test_moments_about_the_origin_of_coordinates_are_moved_to_the_centre_of_mass(dipole_about: str):
    charges, positions = np.array([-1.5, 0.5]), np.array([[3.0, 1.0, 2.0], [3.0, 1.5, 3.0]])
    centre = np.array([15.999, 1.008]) @ positions / 17.007
    values, expected = moments_of(charges, positions), moments_of(charges, positions - centre)
    if dipole_about == "centre_of_mass":
        values["p"] = expected["p"]
    labels = {
        "dipole": {**DIPOLE_AND_QUADRUPOLE["dipole"], "origin": dipole_about},
        "quadrupole": {**DIPOLE_AND_QUADRUPOLE["quadrupole"], "origin": "coordinates"},
    }
    record = convert(labels, frame(values, positions=positions), charge=-1, spin=1)
    assert record is not None
    np.testing.assert_allclose(record.targets["dipole"], expected["p"], atol=1e-12)
    np.testing.assert_allclose(record.targets["quadrupole"], expected["q"], atol=1e-12)


def test_an_origin_that_matters_and_is_not_stated_is_refused():
    values = {"p": [0.0, 0.0, 1.0], "q": np.eye(3)}
    with pytest.raises(InputError) as caught:
        convert(DIPOLE_AND_QUADRUPOLE, frame(values), charge=-1, spin=1)
    dipole, quadrupole = caught.value.problems
    assert "label 'dipole' (key 'p'): total charge -1: its value depends on the origin" in dipole
    assert "label 'quadrupole' (key 'q'): its value depends on the origin" in quadrupole
    neutral = {"dipole": DIPOLE_AND_QUADRUPOLE["dipole"]}
    assert convert(neutral, frame(values)) is not None, "no origin changes the dipole of a neutral molecule"
    with pytest.raises(InputError, match="takes the dipole"):
        convert({"quadrupole": {**DIPOLE_AND_QUADRUPOLE["quadrupole"], "origin": "coordinates"}}, frame(values))
    with pytest.raises(InputError, match="an origin is for dipoles and quadrupoles"):
        convert({"energy": {"key": "e", "unit": "eV", "origin": "coordinates"}}, frame({"e": 1.0}))
