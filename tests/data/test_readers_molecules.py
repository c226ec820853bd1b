"""SMILES, csv and SD files: conformers that do not depend on how they are made, and rows that cannot be read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from foundation.config import validate
from foundation.data.card import DatasetConfig, resolve
from foundation.data.conformers import flat_inchikey
from foundation.data.readers import Record, read_records
from foundation.errors import InputError

ALANINE = "C[C@H](N)C(=O)O"


def read(path: Path, workers: int = 1, **changes: Any) -> list[Record]:
    entry = {
        "source": str(path),
        "level_of_theory": "x",
        "charge": "formal",
        "spin": "formal",
        "properties": {},
        **changes,
    }
    return list(read_records(resolve(validate(DatasetConfig, entry, where="test")), workers=workers))


def table(path: Path, *rows: str) -> Path:
    path.write_text("smiles,score\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


SCORE = {"docking_score": {"key": "score", "unit": "eV"}}


def test_a_csv_file_becomes_structures_with_labels_charges_and_groups(tmp_path: Path):
    path = table(tmp_path / "a.csv", f"{ALANINE},-1.5", "C[C@@H](N)C(=O)O,-2", "C[NH3+],0.5", "[CH3],1")
    left, right, ion, radical = read(path, smiles_key="smiles", properties=SCORE)
    assert left.targets["docking_score"] == -1.5
    assert left.group == right.group != ion.group
    assert (ion.total_charge, ion.spin_multiplicity, len(ion.atomic_numbers)) == (1.0, 1, 8)
    assert (radical.total_charge, radical.spin_multiplicity) == (0.0, 2)
    assert left.smiles == ALANINE
    assert left.where.endswith("a.csv: row 2")


def test_conformers_do_not_depend_on_workers_order_or_limit(tmp_path: Path):
    rows = [f"{'C' * size}O,0" for size in range(1, 6)]
    forward = read(table(tmp_path / "a.csv", *rows), smiles_key="smiles", workers=3)
    backward = read(table(tmp_path / "b.csv", *reversed(rows)), smiles_key="smiles", limit=3)
    for first, second in zip(reversed(forward), backward, strict=False):
        np.testing.assert_array_equal(first.positions, second.positions)
    other = read(tmp_path / "a.csv", smiles_key="smiles", conformers={"seed": 1})
    assert np.abs(other[3].positions - forward[3].positions).max() > 0.01


def test_a_conformer_has_the_handedness_of_its_smiles(tmp_path: Path):
    path = table(tmp_path / "a.csv", f"{ALANINE},0")
    for record in read(path, smiles_key="smiles", conformers={"count": 3, "force_field": "mmff94s"}):
        mol = Chem.AddHs(Chem.MolFromSmiles(ALANINE))
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(record.positions)
        mol.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(mol)
        assert Chem.FindMolChiralCenters(mol) == [(1, "S")]


def test_a_smi_file_needs_no_column_names(tmp_path: Path):
    path = tmp_path / "a.smi.gz"
    with gzip.open(path, "wt") as stream:
        stream.write("# comment\nCCO ethanol\n\nC\n")
    ethanol, methane = read(path)
    assert (ethanol.smiles, len(methane.atomic_numbers)) == ("CCO", 5)
    assert methane.where.endswith("row 4")


@pytest.mark.parametrize("name", ["a.csv", "a.smi"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text("smiles,score\nCCO,1\n" if name == "a.csv" else "CCO ethanol\n", encoding="utf-8-sig")
    [ethanol] = read(path, smiles_key="smiles")
    assert ethanol.smiles == "CCO"


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (["CCO,1", "C1CC,2"], {}, r"row 3: SMILES 'C1CC' cannot be parsed"),
        (["CCO"], {}, r"row 2: 2 columns in the header"),
        ([",1"], {}, r"row 2: SMILES '' cannot be parsed"),
        (["CCO,1"], {"smiles_key": "SMILES"}, r"no column 'SMILES'; columns that are there: smiles, score"),
        (["CCO,1"], {"smiles_key": None}, "state smiles_key"),
        (["CCO,"], {}, r"row 2: label 'docking_score': no key 'score'"),
        (["CCO,x"], {}, r"row 2: label 'docking_score' \(key 'score'\): got 'x'"),
        ([], {}, "hold no structure"),
        (["C1CC2(CC1)CC1CC2C1.[Xx],1"], {}, "cannot be parsed"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, rows: list[str], changes: dict[str, Any], message: str):
    entry = {"smiles_key": "smiles", "properties": SCORE, **changes}
    with pytest.raises(InputError, match=message):
        read(table(tmp_path / "a.csv", *rows), **{key: value for key, value in entry.items() if value is not None})


IMPOSSIBLE = "[C@@]1(C2)(F)C[C@@]12Cl"
"""A bridged ring whose stereo marks no geometry can have."""


def test_a_molecule_without_conformer_is_an_error_unless_it_may_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = table(tmp_path / "a.csv", f"{IMPOSSIBLE},1", "CCO,2")
    with pytest.raises(InputError, match=r"row 2: SMILES .*no conformer found in 5 x 1 attempts"):
        read(path, smiles_key="smiles", conformers={"max_iterations": 1})
    kept = read(path, smiles_key="smiles", conformers={"max_iterations": 1, "on_failure": "skip"})
    assert [record.smiles for record in kept] == ["CCO"]
    assert "1 molecules left out" in caplog.text


def sd_file(path: Path, *mols: Chem.Mol, **fields: str) -> Path:
    with Chem.SDWriter(str(path)) as writer:
        for mol in mols:
            for key, value in fields.items():
                mol.SetProp(key, value)
            writer.write(mol)
    return path


def embedded(smiles: str, *, hydrogens: bool = True) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    return mol if hydrogens else Chem.RemoveHs(mol)


def test_implicit_hydrogens_get_coordinates_and_heavy_atoms_stay_first(tmp_path: Path):
    bare = embedded("CCO", hydrogens=False)
    site = {"site_of_metabolism": {"key": "SOM", "atom_list_from": 1}}
    path = sd_file(tmp_path / "a.sdf", bare, SOM="2")
    (record,) = read(path, properties=site)
    assert record.atomic_numbers.tolist() == [6, 6, 8] + [1] * 6
    np.testing.assert_allclose(record.positions[:3], bare.GetConformer().GetPositions(), atol=1e-4)
    assert record.targets["site_of_metabolism"][:3].tolist() == [0, 1, 0]
    assert np.isnan(record.targets["site_of_metabolism"][3:]).all()
    distances = np.linalg.norm(record.positions[:, None] - record.positions[None], axis=-1)[np.triu_indices(9, 1)]
    assert distances.min() > 0.9
    (as_given,) = read(path, properties=site, hydrogens="as_given")
    assert as_given.atomic_numbers.tolist() == [6, 6, 8]


def test_coordinates_of_a_record_with_hydrogens_are_left_alone(tmp_path: Path):
    mol = embedded("C[NH3+]")
    (record,) = read(sd_file(tmp_path / "a.sdf", mol))
    np.testing.assert_allclose(record.positions, mol.GetConformer().GetPositions(), atol=1e-4)
    assert (record.total_charge, record.smiles) == (1.0, "C[NH3+]")


def test_a_flat_record_gets_a_conformer(tmp_path: Path):
    mol = Chem.MolFromSmiles("CCCO")
    AllChem.Compute2DCoords(mol)
    (record,) = read(sd_file(tmp_path / "a.sdf", mol))
    assert len(record.atomic_numbers) == 12
    assert np.linalg.matrix_rank(record.positions - record.positions.mean(0), tol=0.1) == 3


def test_a_broken_record_is_named(tmp_path: Path):
    path = sd_file(tmp_path / "a.sdf", embedded("CCO"))
    good = path.read_text(encoding="utf-8")
    path.write_text(good + good.replace(" C ", " Q9", 1).replace("V2000", "V9999"), encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.sdf: record 2: RDKit cannot read"):
        read(path)


def test_stereoisomers_and_their_conformers_share_one_key():
    keys = {flat_inchikey(Chem.MolFromSmiles(smiles)) for smiles in (ALANINE, "C[C@@H](N)C(=O)O", "CC(N)C(=O)O")}
    assert keys == {"QNAYBMKLOCPYGJ"}
    assert flat_inchikey(Chem.MolFromSmiles("CCO")) == "LFQSCWFLJHTTHZ"
