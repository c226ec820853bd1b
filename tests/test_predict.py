"""Predictions from objects and files: charge and spin never assumed, units and order kept, bad input refused whole."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.db import connect
from rdkit import Chem

from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.predict import engine as engine_module
from foundation.predict import predict_files

MakeModel = Callable[..., FoundationModel]
HEADS = {
    "energy": {"kind": "energy"},
    "charges": {"kind": "charges"},
    "hand": {"kind": "pseudoscalar", "property_name": "handedness"},
    "sites": {"kind": "atom_classification", "property_name": "site_of_metabolism"},
    "noise": {"kind": "denoising"},
}
R_ALANINE_LIKE = "C[C@@H](N)O"
EVERYTHING = {"energy", "forces", "dipole", "partial_charges", "site_of_metabolism"}


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> FoundationModel:
    return make_model(HEADS)


@pytest.fixture(scope="module")
def two_levels(make_model: MakeModel) -> FoundationModel:
    heads = {"energy": {"kind": "energy"}, "alpha": {"kind": "tensor", "property_name": "polarizability"}}
    model = make_model(heads, levels=("PBE", "CCSD"))
    model.scaling.references("energy")[1] = torch.nan  # no energies at CCSD
    model.scaling.references("polarizability")[0, 7] = torch.nan  # no nitrogen at PBE
    return model


def water(**info: float) -> Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


def salt() -> Atoms:
    """A periodic crystal of elements that the test model knows."""
    atoms = bulk("CO", "rocksalt", a=4.0)
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    return atoms


def test_everything_defined_for_a_molecule_is_predicted(model: FoundationModel) -> None:
    prediction = model.predict("OCC")
    assert set(prediction.values) == EVERYTHING  # no stereocentre: no handedness; no cell: no stress
    assert prediction.values["forces"].shape == (9, 3)
    assert prediction.values["partial_charges"].sum() == pytest.approx(0, abs=1e-6)
    assert prediction.level_of_theory == "GFN2-xTB"
    assert any("ETKDG" in note for note in prediction.structure.notes)


def test_a_list_is_predicted_in_order_whatever_its_mixture(
    model: FoundationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ["O", salt(), water(total_charge=0, spin_multiplicity=1), Chem.MolFromSmiles("CN"), "[NH4+]", "CC"]
    together = model.predict(inputs)
    assert [len(one.structure.atomic_numbers) for one in together] == [3, 2, 3, 7, 5, 8]
    assert "stress" in together[1].values
    assert together[4].structure.total_charge == 1
    assert together[4].values["partial_charges"].sum() == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(engine_module, "MAX_ATOMS_IN_BATCH", 4)
    for alone, one in zip(model.predict(inputs), together, strict=True):
        assert alone.values.keys() == one.values.keys()
        for name, value in one.values.items():
            np.testing.assert_allclose(alone.values[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


def test_smiles_and_its_molecule_and_its_atoms_agree(model: FoundationModel) -> None:
    from_smiles = model.predict("CO")
    atoms = Atoms(from_smiles.structure.atomic_numbers, from_smiles.structure.positions)
    from_molecule = model.predict(from_smiles.structure.molecule)
    from_atoms = model.predict(atoms, charge=0, spin=1)
    for other in (from_molecule, from_atoms):
        np.testing.assert_allclose(other.values["forces"], from_smiles.values["forces"], rtol=1e-5, atol=1e-6)
    assert from_molecule.structure.notes == ()


def test_classifications_are_probabilities_and_sites_are_ranked(model: FoundationModel) -> None:
    prediction = model.predict("CCO")
    probabilities = prediction.values["site_of_metabolism"]
    assert ((probabilities > 0) & (probabilities < 1)).all()
    ranking = prediction.rankings["site_of_metabolism"]
    assert sorted(ranking) == [0, 1, 2]  # heavy atoms only
    assert (np.diff(probabilities[list(ranking)]) <= 0).all()


def test_enantiomers_get_opposite_hands(model: FoundationModel) -> None:
    one = model.predict(R_ALANINE_LIKE)
    mirrored = Chem.Mol(one.structure.molecule)
    mirrored.GetConformer().SetPositions(one.structure.positions * [1.0, 1.0, -1.0])
    Chem.AssignStereochemistryFrom3D(mirrored)
    other = model.predict(mirrored)
    assert {one.labels["handedness"], other.labels["handedness"]} == {"R", "S"}
    assert one.values["handedness"] + other.values["handedness"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("info", "arguments", "message"),
    [
        ({}, {}, "total charge is not stated"),
        ({"charge": 0}, {}, "spin multiplicity 2S[+]1 is not stated"),
        ({"charge": 0, "spin": 1}, {"charge": 1}, "contradictory"),
        ({"charge": 0, "total_charge": 1, "spin": 1}, {}, "contradictory"),
        ({"charge": 0, "spin": 0}, {}, "spin multiplicity: got 0"),
        ({"charge": "zero", "spin": 1}, {}, "key 'charge': got 'zero'"),
    ],
)
def test_charge_and_spin_of_atoms_are_stated_once(
    model: FoundationModel, info: dict[str, object], arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(water(**info), **arguments)


def test_charge_and_spin_of_atoms_may_come_from_either_side(model: FoundationModel) -> None:
    stated = model.predict(water(charge=1, spin=2))
    argued = model.predict(water(), charge=1, spin=2)
    neutral = model.predict(water(), charge=0, spin=1)
    assert stated.values["energy"] == argued.values["energy"]
    assert stated.values["energy"] != neutral.values["energy"]


@pytest.mark.parametrize(
    ("smiles", "arguments", "charge", "spin"),
    [("[CH3]", {}, 0, 2), ("[OH-]", {}, -1, 1), ("O=O", {"spin": 3}, 0, 3), ("[O][O]", {"spin": 3}, 0, 3)],
)
def test_charge_and_spin_of_molecules_come_from_their_bonds(
    model: FoundationModel, smiles: str, arguments: dict[str, int], charge: int, spin: int
) -> None:
    structure = model.predict(smiles, **arguments).structure
    assert (structure.total_charge, structure.spin_multiplicity) == (charge, spin)


@pytest.mark.parametrize(
    ("smiles", "arguments", "message"),
    [
        ("C1CC", {}, "'C1CC' cannot be parsed"),
        ("", {}, "no atoms"),
        ("[O][O]", {}, "2 unpaired electrons"),
        ("C", {"spin": 2}, r"input 0: spin multiplicity 2 with total charge 0: .* 10 electrons"),
        ("CC[Zn]", {}, "47 electrons"),
        ("C", {"charge": 1}, "total charge is contradictory"),
        ("CF", {}, "never seen F; it knows H C N O"),
        ("C*", {}, "never seen"),
    ],
)
def test_bad_smiles_are_refused(model: FoundationModel, smiles: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(smiles, **arguments)


def test_all_bad_inputs_are_reported_at_once(model: FoundationModel) -> None:
    with pytest.raises(InputError) as caught:
        model.predict(["C", "C1CC", water()])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["input 1", "input 2", "input 2"]


def test_atoms_on_top_of_each_other_are_refused(model: FoundationModel) -> None:
    with pytest.raises(InputError, match="on top of each other"):
        model.predict(Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), charge=0, spin=1)


def test_a_level_of_theory_is_chosen_and_known(two_levels: FoundationModel) -> None:
    with pytest.raises(InputError, match="not chosen; the model knows several: 'PBE', 'CCSD'"):
        two_levels.predict("C")
    with pytest.raises(InputError, match="got 'B3LYP'; allowed: 'PBE', 'CCSD'"):
        two_levels.predict("C", level="B3LYP")
    assert two_levels.predict("C", level="PBE").level_of_theory == "PBE"


def test_what_a_level_never_had_labels_of_is_left_out_or_refused(two_levels: FoundationModel) -> None:
    assert set(two_levels.predict("C", level="CCSD").values) == {"polarizability"}
    with pytest.raises(InputError, match="no labels of it at level of theory 'CCSD'"):
        two_levels.predict("C", level="CCSD", properties=["energy"])
    with pytest.raises(InputError, match="no reference value of N at level of theory 'PBE'"):
        two_levels.predict("N", level="PBE")
    assert "energy" in two_levels.predict("N", level="PBE", properties=["energy"]).values


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (["stress"], "periodic in three directions"),
        (["gap"], "does not predict 'gap'"),
        (["enrgy"], "unknown property 'enrgy'; nearest: 'energy'"),
        (["handedness"], "exactly one stereocentre"),
    ],
)
def test_properties_that_cannot_be_had_are_refused(model: FoundationModel, properties: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict("C", properties=properties)


def test_a_dipole_of_charges_is_left_out_of_cells_and_refused_by_name(model: FoundationModel) -> None:
    assert set(model.predict(salt()).values) == {"energy", "forces", "stress", "partial_charges"}
    with pytest.raises(InputError, match="'dipole': the model's head defines it for free molecules only"):
        model.predict(salt(), properties=["dipole"])


def test_a_broken_model_is_noticed(make_model: MakeModel) -> None:
    broken = make_model({"energy": {"kind": "energy"}})
    with torch.no_grad():
        broken.backbone.conditioning.element.fill_(torch.inf)
    with pytest.raises(InputError, match="not a finite number"):
        broken.predict("C")


def write_inputs(folder: Path) -> dict[str, Path]:
    """One file of each kind; every one holds water, and those that can an ion too."""
    paths = {kind: folder / f"water.{kind}" for kind in ("smi", "csv", "sdf", "mol", "xyz", "extxyz", "cif", "db")}
    paths["smi"].write_text("O water\n\n# a comment\n[NH4+] ammonium\n")
    paths["csv"].write_text("Name,SMILES,x\nwater,O,1\nammonium,[NH4+],2\n")
    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    mol.AddConformer(_conformer(), assignId=True)
    mol.SetProp("_Name", "water")
    with Chem.SDWriter(str(paths["sdf"])) as writer:
        writer.write(mol)
    Chem.MolToMolFile(mol, str(paths["mol"]))
    ase.io.write(paths["xyz"], water(), format="xyz")
    ase.io.write(paths["extxyz"], [water(charge=0, spin=1), water(charge=1, spin=2)], format="extxyz")
    crystal = Atoms("CO", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.0, 3.1, 3.2], pbc=True)
    ase.io.write(paths["cif"], crystal)
    with connect(paths["db"]) as database:
        database.write(water(), charge=0, spin=1)
    return paths


def _conformer() -> Chem.Conformer:
    conformer = Chem.Conformer(3)
    conformer.SetPositions(np.array(molecule("H2O").get_positions(), dtype=np.float64))
    conformer.Set3D(True)
    return conformer


@pytest.mark.parametrize(
    ("kind", "arguments", "count"),
    [
        ("smi", {}, 2),
        ("csv", {}, 2),
        ("sdf", {}, 1),
        ("mol", {}, 1),
        ("xyz", {"charge": 0, "spin": 1}, 1),
        ("extxyz", {}, 2),
        ("cif", {"charge": 0, "spin": 1}, 1),
        ("db", {}, 1),
    ],
)
def test_every_kind_of_file_is_read_and_every_kind_written(
    model: FoundationModel, tmp_path: Path, kind: str, arguments: dict[str, int], count: int
) -> None:
    paths = write_inputs(tmp_path)
    for out_kind in ("json", "csv", "extxyz", "sdf"):
        out = tmp_path / f"out.{out_kind}"
        if out_kind == "sdf" and kind in {"xyz", "extxyz", "cif", "db"}:
            with pytest.raises(InputError, match="an SDF needs bonds"):
                predict_files(model, [paths[kind]], out=out, **arguments)
            assert not out.exists()
            continue
        predictions = predict_files(model, [paths[kind]], out=out, **arguments)
        assert len(predictions) == count
        energies = [float(one.values["energy"]) for one in predictions]
        np.testing.assert_allclose(_energies(out), energies, rtol=1e-9, atol=1e-6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def _energies(path: Path) -> list[float]:
    match path.suffix:
        case ".json":
            return [one["values"]["energy"] for one in json.loads(path.read_text())["predictions"]]
        case ".csv":
            return [float(row["energy_eV"]) for row in csv.DictReader(path.read_text().splitlines())]
        case ".sdf":
            return [float(mol.GetProp("energy_eV")) for mol in Chem.SDMolSupplier(str(path))]
        case _:
            return [atoms.get_potential_energy() for atoms in ase.io.read(path, ":")]


def test_files_keep_all_values(model: FoundationModel, tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text(f"{R_ALANINE_LIKE} chiral\n")
    [prediction] = predict_files(model, [tmp_path / "in.smi"], out=tmp_path / "out.csv")
    values = prediction.values
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert row["name"] == "chiral"
    assert row["handedness"] in {"R", "S"}
    assert float(row["handedness_probability_R"]) == pytest.approx(float(values["handedness"]))
    assert float(row["dipole_eA_x"]) == pytest.approx(values["dipole"][0])
    np.testing.assert_allclose(json.loads(row["forces_eV_per_A"]), values["forces"], rtol=1e-8)
    assert row["site_of_metabolism_ranking_from_1"].split()[0] == str(prediction.rankings["site_of_metabolism"][0] + 1)
    predict_files(model, [tmp_path / "in.smi"], out=tmp_path / "out.extxyz")
    atoms = ase.io.read(tmp_path / "out.extxyz")
    np.testing.assert_allclose(atoms.get_forces(), values["forces"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(atoms.arrays["partial_charges"], values["partial_charges"], atol=1e-6)
    predict_files(model, [tmp_path / "in.smi"], out=tmp_path / "out.sdf")
    mol = next(iter(Chem.SDMolSupplier(str(tmp_path / "out.sdf"), removeHs=False)))
    sites = [atom.GetDoubleProp("site_of_metabolism") for atom in mol.GetAtoms()]
    np.testing.assert_allclose(sites, values["site_of_metabolism"], rtol=1e-4)


def test_stress_is_written_in_ases_order(model: FoundationModel, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", salt())
    [prediction] = predict_files(model, [tmp_path / "in.extxyz"], out=tmp_path / "out.extxyz")
    written = ase.io.read(tmp_path / "out.extxyz").get_stress(voigt=False)
    np.testing.assert_allclose(written, prediction.values["stress"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.smi", "C\nC1CC bad\n", "line 2: SMILES 'C1CC' cannot be parsed"),
        ("x.smi", "", "holds no structures"),
        ("x.csv", "a,b\n1,2\n", "no column 'smiles'; columns: a, b"),
        ("x.xyz", "1\n\nH 0 0 0\n", "total charge is not stated"),
        ("x.xyz", "3\n\nH 0 0 0\n", "ends within the frame"),
        ("x.sdf", "nonsense\n\n\n$$$$\n", "RDKit cannot read this molecule"),
        ("x.cif", "data_x\n_cell_length_a 3\n", "cannot make a structure"),
        ("x.db", "nonsense", "ASE cannot read this database"),
        ("x.pdb", "x", "kind of file '.pdb'"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_written(
    model: FoundationModel, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        predict_files(model, [tmp_path / name], out=tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_fault_of_many_frames_is_told_once(model: FoundationModel, tmp_path: Path) -> None:
    file = tmp_path / "x.xyz"
    file.write_text("1\n\nH 0 0 0\n" * 12 + "1\ntotal_charge=0\nH 0 0 0\n")
    with pytest.raises(InputError) as caught:
        predict_files(model, [file], out=tmp_path / "out.json")
    charge, spin = caught.value.problems
    assert charge.startswith(f"{file}: 12 frames (0, 1, 2, …): the total charge is not stated")
    assert spin.startswith(f"{file}: 13 frames (0, 1, 2, …): the spin multiplicity 2S+1 is not stated")
    with pytest.raises(InputError) as caught:
        predict_files(model, [file], out=tmp_path / "out.json", charge=0, spin=1)
    [problem] = caught.value.problems
    assert "13 frames (0, 1, 2, …): spin multiplicity 1 with total charge 0: the structure then has 1 elec" in problem
    (tmp_path / "x.smi").write_text("[O][O] a\nC b\n[O][O] c\n")
    with pytest.raises(InputError, match=r"x\.smi: 2 lines \(1, 3\): 2 unpaired electrons leave"):
        predict_files(model, [tmp_path / "x.smi"], out=tmp_path / "out.json")


def test_compressed_files_are_read(model: FoundationModel, tmp_path: Path) -> None:
    (tmp_path / "in.smi.gz").write_bytes(gzip.compress(b"O water\n"))
    [prediction] = predict_files(model, [tmp_path / "in.smi.gz"], out=tmp_path / "out.csv")
    assert prediction.structure.name == "water"


@pytest.mark.parametrize("name", ["missing.smi", "missing.db"])
def test_a_missing_file_is_named_and_not_made(model: FoundationModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no such file"):
        predict_files(model, [tmp_path / name], out=tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("out", "message"), [("out.pdf", "kind of file"), ("none/out.json", "no such folder")])
def test_an_output_that_cannot_be_written_is_refused_first(
    model: FoundationModel, tmp_path: Path, out: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict_files(model, [tmp_path / "missing.smi"], out=tmp_path / out)
