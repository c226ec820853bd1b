"""npz, parquet, ASE files and CIF: the same structures come back in internal units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from foundation.config import validate
from foundation.data.card import DatasetConfig, resolve
from foundation.data.readers import Record, read_records
from foundation.errors import InputError

ARRAYS = {"positions": {"key": "R", "unit": "bohr"}, "atomic_numbers": {"key": "z"}}
LABELS = {"energy": {"key": "E", "unit": "Ha"}, "forces": {"key": "F", "unit": "Ha/bohr"}}
BOHR, HARTREE = 0.529177210903, 27.211386245988


def read(path: Path | dict[str, str], **changes: Any) -> list[Record]:
    source = str(path) if isinstance(path, Path) else path
    entry = {"source": source, "level_of_theory": "x", "charge": 0, "spin": 1, "properties": LABELS, **changes}
    return list(read_records(resolve(validate(DatasetConfig, entry, where="test"))))


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shape = (3, 4, 3)
    return {
        "R": random.normal(size=shape),
        "F": random.normal(size=shape),
        "E": random.normal(size=(3, 1)),
        "z": np.array([[8, 1, 1, 0], [6, 8, 0, 0], [6, 1, 1, 8]], dtype=np.uint8),
    }


def test_padded_archives(tmp_path: Path, values: dict[str, np.ndarray]):
    np.savez(tmp_path / "a.npz", **values)
    records = read(tmp_path / "a.npz", arrays=ARRAYS)
    assert [record.atomic_numbers.tolist() for record in records] == [[8, 1, 1], [6, 8], [6, 1, 1, 8]]
    np.testing.assert_allclose(records[1].positions, values["R"][1, :2] * BOHR)
    np.testing.assert_allclose(records[1].targets["forces"], values["F"][1, :2] * HARTREE / BOHR)
    assert records[2].targets["energy"] == pytest.approx(values["E"][2, 0] * HARTREE)
    assert len(read(tmp_path / "a.npz", arrays=ARRAYS, limit=2)) == 2


def test_one_archive_that_holds_several_splits(tmp_path: Path, values: dict[str, np.ndarray]):
    parts = {f"{part}_{key}": values[key] for part in ("fit", "check") for key in "RFE"}
    np.savez(tmp_path / "a.npz", z=np.array([6, 1, 1, 8]), **parts)
    arrays = {**ARRAYS, "parts": {"train": "fit_", "test": "check_"}}
    arrays["positions"] = {"key": "{part}R", "unit": "Å"}
    labels = {"energy": {"key": "{part}E", "unit": "eV"}}
    records = read(tmp_path / "a.npz", arrays=arrays, properties=labels)
    assert [record.split for record in records] == ["train"] * 3 + ["test"] * 3
    with pytest.raises(InputError, match=r"no key '{part}G'; keys that are there: .*fit_E"):
        read(tmp_path / "a.npz", arrays=arrays, properties={"energy": {"key": "{part}G", "unit": "eV"}})


def test_crystals_have_a_cell(tmp_path: Path, values: dict[str, np.ndarray]):
    cells = np.array([np.eye(3) * length for length in (10.0, 11.0, 12.0)])
    np.savez(tmp_path / "a.npz", **{**values, "h": cells, "W": cells})
    arrays = {**ARRAYS, "cell": {"key": "h", "unit": "Å"}}
    stress = {"stress": {"key": "W", "unit": "eV", "convention": "virial"}}
    records = read(tmp_path / "a.npz", arrays=arrays, properties=stress)
    assert records[1].pbc == (True, True, True)
    np.testing.assert_allclose(records[1].targets["stress"], -np.eye(3) * 11 / 11**3)


@pytest.mark.parametrize(
    ("change", "arrays", "message"),
    [
        ({}, None, "npz files have no fixed layout; state arrays"),
        ({"R": np.ones((3, 4))}, ARRAYS, r"positions have shape \(3, 4\)"),
        ({"z": np.ones((2, 4))}, ARRAYS, r"atomic numbers have shape \(2, 4\)"),
        ({"E": np.ones(2)}, ARRAYS, r"'E' has shape \(2,\); allowed: 3 frames first"),
        ({"E": np.array([{}, {}, {}], dtype=object)}, ARRAYS, "not an npz archive of plain arrays"),
        ({}, {**ARRAYS, "atomic_numbers": {"key": "Z"}}, "atomic_numbers: no key 'Z'; keys that are there: E, F, R, z"),
    ],
)
def test_archives_that_do_not_fit(
    tmp_path: Path, values: dict[str, np.ndarray], change: dict[str, Any], arrays: dict[str, Any] | None, message: str
):
    np.savez(tmp_path / "a.npz", **{**values, **change})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npz", **({} if arrays is None else {"arrays": arrays}))


def test_something_else_under_the_name_npz(tmp_path: Path):
    (tmp_path / "a.npz").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.npz: not an npz archive"):
        read(tmp_path / "a.npz", arrays=ARRAYS)


def test_parquet_with_lists_and_with_smiles(tmp_path: Path, values: dict[str, np.ndarray]):
    rows = [
        {"R": values["R"][i].ravel().tolist(), "F": values["F"][i].tolist(), "E": values["E"][i, 0], "z": [6, 1, 1, 8]}
        for i in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    records = read(tmp_path / "a.parquet", arrays=ARRAYS)
    np.testing.assert_allclose(records[2].positions, values["R"][2] * BOHR)
    np.testing.assert_allclose(records[2].targets["forces"], values["F"][2] * HARTREE / BOHR)
    pyarrow.parquet.write_table(pyarrow.table({"smi": ["C", "CCO"], "g": [1.0, None]}), tmp_path / "b.parquet")
    gap = {"gap": {"key": "g", "unit": "eV", "optional": True}}
    methane, ethanol = read(tmp_path / "b.parquet", smiles_key="smi", properties=gap)
    assert methane.targets["gap"] == 1.0
    assert ethanol.targets == {}
    with pytest.raises(InputError, match=r"row 1: label 'gap': no key 'g'"):
        read(tmp_path / "b.parquet", smiles_key="smi", properties={"gap": {"key": "g", "unit": "eV"}})
    with pytest.raises(InputError, match="state smiles_key, or arrays"):
        read(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match="not a parquet table"):
        read(tmp_path / "c.parquet", arrays=ARRAYS)


ASE_LABELS = {
    "energy": {"key": "energy", "unit": "eV"},
    "forces": {"key": "forces", "unit": "eV/Å"},
    "stress": {"key": "stress", "unit": "eV/Å³"},
}


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    results = {"energy": -27.0, "forces": np.full((8, 3), 0.5), "stress": np.arange(6.0)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("name", ["a.db", "a.traj"])
def test_ase_files(tmp_path: Path, name: str):
    path = tmp_path / name
    if name == "a.db":
        database = ase.db.connect(str(path))
        database.write(crystal(), charge=1, data={"extra": np.arange(3.0)})
        database.write(crystal(), charge=-1, data={"extra": np.arange(3.0)})
    else:
        ase.io.write(path, [crystal(), crystal()])
    charge = {"key": "charge"} if name == "a.db" else 0
    first, second = read(path, properties=ASE_LABELS, charge=charge)
    assert first.targets["energy"] == -27.0
    assert first.targets["stress"].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    assert first.pbc == (True, True, True)
    np.testing.assert_allclose(first.cell, np.eye(3) * 5.6)
    assert second.total_charge == (-1.0 if name == "a.db" else 0.0)
    assert len(read(path, properties=ASE_LABELS, charge=charge, limit=1)) == 1
    if name == "a.db":
        (record, _) = read(path, properties={"dipole": {"key": "extra", "unit": "e*Å"}})
        assert record.targets["dipole"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.db", "a.traj", "a.cif"])
def test_something_else_under_these_names(tmp_path: Path, name: str):
    (tmp_path / name).write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


def test_cif_files_are_expanded_by_symmetry(tmp_path: Path):
    ase.io.write(tmp_path / "a.cif", crystal())
    (record,) = read(tmp_path / "a.cif", properties={})
    assert sorted(record.atomic_numbers.tolist()) == [11] * 4 + [17] * 4
    assert record.pbc == (True, True, True)
    np.testing.assert_allclose(record.cell, np.eye(3) * 5.6, atol=1e-6)
    text = (tmp_path / "a.cif").read_text(encoding="utf-8")
    (tmp_path / "b.cif").write_text(text.replace("1.0000", "0.5000"), encoding="utf-8")
    with pytest.raises(InputError, match="sites are partly occupied"):
        read(tmp_path / "b.cif", properties={})


def test_files_by_pattern_and_of_several_formats(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.xyz").write_text("1\nenergy=1 pbc=F\nH 0 0 0\n", encoding="utf-8")
    np.savez(tmp_path / "c.npz", R=np.zeros((2, 1, 3)), z=np.array([1]), energy=np.ones(2))
    labels = {"energy": {"key": "energy", "unit": "eV"}}
    both = {"train": str(tmp_path / "*.xyz"), "test": str(tmp_path / "c.npz")}
    records = read(both, spin=2, properties=labels, arrays=ARRAYS, group={"by": "file"})
    assert [record.split for record in records] == ["train", "train", "test", "test"]
    assert [record.group for record in records] == ["a.xyz", "b.xyz", "c.npz", "c.npz"]
    with pytest.raises(InputError, match="no file matches"):
        read(tmp_path / "*.cif")
    (tmp_path / "d.dat").touch()
    with pytest.raises(InputError, match=r"ending of d\.dat tells no format; state format: ase, cif"):
        read(tmp_path / "d.dat")
