"""The shipped cards on the real files: counts, first values in internal units, signs, and what must not be read."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_masses, chemical_symbols

from foundation.data.card import DatasetConfig, card_names, load_card, resolve
from foundation.data.files import DataFile
from foundation.data.readers import Record, read_isolated_atoms, read_records
from foundation.data.readers.convert import formula
from foundation.data.readers.extxyz import read_extxyz_frames
from foundation.data.splits import split_indices

pytestmark = pytest.mark.usefixtures("the_shared_data")

READ_WHOLE = {"ag3_charge_states", "ta_fitsnap", "som/2A6", "lips20"}
SHORT = 20
"""Structures a file that are read of the other cards; all of them with `-m slow`."""
SLOW_TO_READ = {"unlabelled_smiles", "chiro_docking_ranking"}
DEBYE = 0.20819434
BOHR, HARTREE, KCAL_PER_MOL = 0.529177210903, 27.211386245988, 0.0433641042418


@pytest.fixture
def the_shared_data(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))


@functools.cache
def read(name: str, limit: int | None) -> list[Record]:
    config = DatasetConfig(card=name) if limit is None else DatasetConfig(card=name, limit=limit)
    return list(read_records(resolve(config)))


def records(name: str, limit: int | None = None) -> list[Record]:
    """The records of a card, read once in a session."""
    return read(name, limit)


def check_card(name: str, found: list[Record], *, whole: bool) -> None:
    card, dataset = load_card(name), resolve(DatasetConfig(card=name))
    elements = {int(number) for record in found for number in record.atomic_numbers}
    stated = {chemical_symbols.index(symbol) for symbol in card.elements}
    assert elements <= stated
    for name_of_label, field in dataset.properties.items():
        labelled = sum(name_of_label in record.targets for record in found)
        assert labelled == len(found) or (field.optional and (labelled or not whole))
    for record in found[::50]:
        record.graph()
    parts = split_indices(
        dataset.split if whole else dataset.split.model_copy(update={"val": None, "test": None, "train": None}),
        num=len(found),
        groups=[record.group for record in found],
        formulas=[formula(record.atomic_numbers) for record in found],
        smiles=[record.smiles for record in found],
        given=[record.split for record in found],
    )
    assert sum(len(part) for part in parts.values()) == len(found)
    if whole:
        assert elements == stated
        assert len(found) == card.num_structures


@pytest.mark.parametrize("name", card_names())
def test_every_card_reads_its_real_file(name: str):
    whole = name in READ_WHOLE
    limit = None if whole else 5 if name in SLOW_TO_READ else SHORT
    check_card(name, records(name, limit), whole=whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(card_names()) - SLOW_TO_READ))
def test_every_card_reads_the_whole_of_its_file(name: str):
    check_card(name, records(name), whole=True)


def test_rmd17_is_converted_from_kcal_per_mol_and_keeps_the_official_split():
    found = records("rmd17/aspirin", SHORT)
    assert [record.split for record in found] == ["train"] * SHORT + ["test"] * SHORT
    assert float(found[0].targets["energy"]) == pytest.approx(-406273.74559918 * KCAL_PER_MOL, rel=1e-9)
    assert found[0].targets["forces"][0, 0] == pytest.approx(-24.48955372 * KCAL_PER_MOL, rel=1e-8)
    assert formula(found[0].atomic_numbers) == "C9H8O4"


def test_3bpa_joins_two_formats_and_has_isolated_atoms():
    found = records("3bpa/300K", SHORT)
    assert [record.split for record in found] == ["train"] * SHORT + ["test"] * SHORT
    assert float(found[0].targets["energy"]) == pytest.approx(-17660.461737861464)
    assert not any(found[0].pbc)
    isolated = read_isolated_atoms(resolve(DatasetConfig(card="3bpa/300K")))
    assert isolated == pytest.approx({1: -13.58722278, 6: -1029.48899999, 7: -1484.98145686, 8: -2041.98160039})
    atomization = float(found[0].targets["energy"]) - sum(isolated[int(z)] for z in found[0].atomic_numbers)
    assert -6 * 27 < atomization < -4 * 27


def test_qm7x_takes_off_the_padding():
    found = records("qm7x_small", 200)
    assert {len(record.atomic_numbers) for record in found} < set(range(4, 24))
    assert all(np.abs(record.targets["forces"].sum(axis=0)).max() < 0.02 for record in found)
    assert float(found[0].targets["energy"]) == pytest.approx(-8891.92929)


def test_ag3_geometries_of_both_charges_share_a_group():
    found = records("ag3_charge_states")
    states = {group: {r.total_charge for r in members} for group, members in _grouped(found).items()}
    assert sum(charges == {-1.0, 1.0} for charges in states.values()) == 1079
    assert found[0].targets["dipole"][1] == pytest.approx(-0.1243710070848465)


def _grouped(found: list[Record]) -> dict[str, list[Record]]:
    ordered = sorted(found, key=lambda record: record.group)
    return {group: list(members) for group, members in itertools.groupby(ordered, lambda record: record.group)}


def test_forces_are_the_negative_energy_gradient_of_ag3():
    """Between neighbouring geometries the energy falls by the mean force times the step."""
    anions = [record for record in records("ag3_charge_states") if record.total_charge < 0]
    positions = np.array([record.positions.ravel() for record in anions])
    forces = np.array([record.targets["forces"].ravel() for record in anions])
    energies = np.array([float(record.targets["energy"]) for record in anions])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    work = -(0.5 * (forces + forces[nearest]) * (positions[nearest] - positions)).sum(axis=1)
    rise = energies[nearest] - energies
    assert np.corrcoef(work, rise)[0, 1] > 0.99
    assert work @ rise / (work @ work) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", ["charged_dimers/cc", "charged_dimers/aa"])
def test_forces_are_the_negative_energy_gradient_along_a_pulled_dimer(name: str):
    train = [record for record in records(name, SHORT) if record.split == "train"]
    for near, far in itertools.pairwise(train[:4]):
        mean = 0.5 * (near.targets["forces"] + far.targets["forces"])
        rise = float(far.targets["energy"] - near.targets["energy"])
        assert -(mean * (far.positions - near.positions)).sum() == pytest.approx(rise, rel=0.2)
    assert float(train[0].targets["interaction_energy"]) == pytest.approx(
        {"charged_dimers/cc": -1.1510712351800976, "charged_dimers/aa": -0.033023933489403134}[name]
    )


@pytest.mark.parametrize("element", ["Ge", "Mo"])
def test_stress_is_the_strain_derivative_of_the_energy(element: str, shared_data: Path):
    """Between weakly strained cells the energy rises by volume times mean stress times strain: sign and shear order."""
    path = shared_data / f"mlearn_elements/{element}_training.xyz.xz"
    frames = read_extxyz_frames(DataFile(path=path, format="extxyz", split=None, sha256=None), limit=None)
    # By file name and frame: the folder may be reached through a link.
    elastic = {Path(frame.where).name for frame in frames if frame.values["group"] == "Elastic"}
    strained = [record for record in records(f"mlearn/{element}") if Path(record.where).name in elastic]
    work, rise = [], []
    for a, b in itertools.combinations(strained, 2):
        assert a.cell is not None
        assert b.cell is not None
        deformation = np.linalg.inv(a.cell) @ b.cell - np.eye(3)
        if len(a.atomic_numbers) == len(b.atomic_numbers) and np.abs(deformation).max() < 0.03:
            volume = 0.5 * (np.linalg.det(a.cell) + np.linalg.det(b.cell))
            mean = 0.5 * (a.targets["stress"] + b.targets["stress"])
            work.append(abs(volume) * (mean * 0.5 * (deformation + deformation.T)).sum())
            rise.append(float(b.targets["energy"] - a.targets["energy"]))
    assert len(work) > 30
    assert np.corrcoef(work, rise)[0, 1] > 0.999
    assert np.dot(work, rise) / np.dot(work, work) == pytest.approx(1.0, abs=0.03)


def test_lips20_virials_become_stresses_tension_positive():
    found = _grouped(records("lips20"))
    assert len(found) == 16
    crystal = found["Li.npz"]
    assert crystal[0].targets["stress"][0, 0] == pytest.approx(7.88988686 / 10.28**3, rel=1e-5)
    for members in found.values():  # heated to 3000 K in fixed cells, all are compressed
        assert np.mean([np.trace(record.targets["stress"]) for record in members[10:]]) < 0


def test_extreme_compressions_of_tantalum_are_left_out():
    found = records("ta_fitsnap")
    assert len(found) == 341 < 363
    assert max(np.abs(record.targets["stress"]).max() for record in found) <= 1.0


def test_water_dipoles_and_polarizabilities_leave_atomic_units():
    monomer = records("water_tensor_dipoles/monomer", SHORT)[0]
    np.testing.assert_allclose(monomer.targets["dipole"], np.array([-0.734398, 0, -0.040971]) * BOHR, atol=1e-9)
    assert monomer.targets["polarizability"][0, 0] == pytest.approx(9.812358 * BOHR**2 / HARTREE)
    assert float(monomer.targets["energy"]) == pytest.approx(-76.3489282585 * HARTREE)
    assert not any(monomer.pbc)
    bulk = records("water_tensor_dipoles/bulk", SHORT)[0]
    np.testing.assert_allclose(bulk.targets["dipole"], np.array([5.6932847, 8.658302, 9.0954025]) * BOHR)
    assert all(bulk.pbc)


def test_qm7b_molecules_are_free_and_their_labels_leave_atomic_units():
    first = records("qm7b_ccsd", SHORT)[0]
    assert not any(first.pbc)
    np.testing.assert_allclose(first.targets["dipole"], np.array([-1.0073, -0.4017, -0.2416]) * BOHR)
    assert first.targets["polarizability"][1, 0] == pytest.approx(-1.862597 * BOHR**2 / HARTREE)


def test_qm9_scalars():
    methane = records("qm9_reduced_100", SHORT)[0].targets
    assert float(methane["energy"]) == pytest.approx(-40.47893 * HARTREE)
    assert float(methane["gap"]) == pytest.approx(0.5048 * HARTREE)
    assert float(methane["isotropic_polarizability"]) == pytest.approx(13.21 * BOHR**2 / HARTREE)
    assert float(methane["electronic_spatial_extent"]) == pytest.approx(35.3641 * BOHR**2)
    assert float(methane["heat_capacity"]) == pytest.approx(6.469e-3 * KCAL_PER_MOL)
    ammonia = records("qm9_reduced_100", SHORT)[1]
    assert float(ammonia.targets["dipole_magnitude"]) == pytest.approx(1.6256 * DEBYE, rel=1e-5)


def _rotation_of(vector: np.ndarray) -> np.ndarray:
    """Columns: the change of the vector when it turns about x, y and z."""
    return np.array([np.cross(axis, vector) for axis in np.eye(3)]).T


@pytest.mark.parametrize("name", ["spice_bec/dipeptides", "spice_bec/des370k_dimers", "spice_bec/water"])
def test_born_charges_turn_the_dipole_with_the_molecule(name: str):
    for record in records(name, SHORT)[:5]:
        born, dipole = record.targets["born_charges"], record.targets["dipole"]
        arms = record.positions - record.positions.mean(axis=0)
        turned = sum(z @ _rotation_of(arm) for z, arm in zip(born, arms, strict=True))
        np.testing.assert_allclose(turned, _rotation_of(dipole), atol=0.02)
        np.testing.assert_allclose(born.sum(axis=0), 0.0, atol=0.01)


def test_labels_of_the_dipeptides_and_not_the_models_beside_them(shared_data: Path):
    found = records("spice_polar_dipeptides", SHORT)
    path = shared_data / "spice_polar_dipeptides/spice-dipep-dipolar_val.xyz.xz"
    frame = next(iter(read_extxyz_frames(DataFile(path=path, format="extxyz", split=None, sha256=None), limit=1)))
    test = next(record for record in found if record.split == "test")
    assert {"pred_dipole", "mbi_dipole", "hirsh_charges"} <= set(frame.available)
    assert test.targets["dipole"].tolist() == np.ravel(frame.values["dipole"]).tolist()  # type: ignore[arg-type]
    assert test.targets["dipole"].tolist() != np.ravel(frame.values["pred_dipole"]).tolist()  # type: ignore[arg-type]
    assert found[0].targets["forces"][0, 0] == pytest.approx(-0.41510427)
    dipoles = np.ravel([record.targets["dipole"] for record in found])
    from_charges = np.ravel([record.targets["partial_charges"] @ record.positions for record in found])
    assert from_charges @ dipoles / (from_charges @ from_charges) == pytest.approx(0.97, abs=0.02)
    upper = np.triu_indices(3, 1)
    moments = np.ravel([record.targets["quadrupole"][upper] for record in found])
    centred = [r.positions - np.average(r.positions, axis=0, weights=atomic_masses[r.atomic_numbers]) for r in found]
    second = [
        np.einsum("i,ia,ib->ab", record.targets["partial_charges"], own, own)[upper]
        for record, own in zip(found, centred, strict=True)
    ]
    assert np.ravel(second) @ moments / np.square(second).sum() == pytest.approx(1.0, abs=0.1)


def test_born_charges_of_periodic_water_are_masked_in_the_test_file():
    found = records("water_bec_rpbe_d3", SHORT)
    assert found[0].targets["born_charges"][0].tolist()[0] == [0.2713, -0.19542, -0.09621]
    assert "born_charges" not in found[-1].targets


def test_sites_of_metabolism_count_atoms_from_one_and_mask_hydrogens():
    found = records("som/3A4", SHORT)
    chlorobenzene, cineole = found[0], found[1]
    assert np.flatnonzero(chlorobenzene.targets["site_of_metabolism"] == 1).tolist() == [2]
    assert np.flatnonzero(cineole.targets["site_of_metabolism"] == 1).tolist() == [3, 7]
    assert formula(chlorobenzene.atomic_numbers) == "C6H3Cl3"
    for record in found:
        marks = record.targets["site_of_metabolism"]
        assert np.isnan(marks[record.atomic_numbers == 1]).all()
        assert not np.isnan(marks[record.atomic_numbers != 1]).any()


def test_molecules_of_several_isoforms_share_their_group():
    groups = [{record.group for record in records(f"som/{isoform}", 60)} for isoform in ("3A4", "2A6")]
    assert groups[0] & groups[1]


def test_mirror_images_have_opposite_rotation_and_one_group():
    left, right = records("acmp_axial_chirality", SHORT)[:2]
    assert left.group == right.group
    assert left.targets["optical_rotation"] == -right.targets["optical_rotation"]
    distances = [np.linalg.norm(r.positions[:, None] - r.positions[None], axis=-1) for r in (left, right)]
    np.testing.assert_allclose(distances[0], distances[1], atol=2e-3)


def test_docking_pairs_share_their_group():
    left, right = records("chiro_docking_ranking", 5)[:2]
    assert left.group == right.group
    assert float(left.targets["docking_score"]) == pytest.approx(-4.6 * KCAL_PER_MOL)
    assert left.split == "train"
