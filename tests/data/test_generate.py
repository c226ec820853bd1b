"""The embedded data set: what is in it is right, and the program makes exactly it."""

from __future__ import annotations

import csv
import io
import lzma
import resource
from collections import defaultdict
from functools import cache
from importlib.resources import files
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from rdkit import Chem
from rich.console import Console

from foundation.data.conformers import ConformerConfig, embed_molecule
from foundation.data.generate import (
    GEOMETRIES_FILE,
    HANDEDNESS_FILE,
    SHIPPED_NUM_GEOMETRIES,
    SHIPPED_NUM_HANDEDNESS,
    SHIPPED_SEED,
    generate,
)
from foundation.data.generate.conformers import centre_of_mass, displace, is_same_molecule, relax
from foundation.data.generate.generate import (
    complete_or_absent,
    generate_geometries,
    handedness_table,
    num_geometries_each,
)
from foundation.data.generate.molecules import (
    ENANTIOMERS,
    SUBSTITUENTS,
    curated_molecules,
    describe_molecule,
    handedness_molecules,
)
from foundation.data.generate.xtb import UnlabelledError, label_geometry
from foundation.errors import InputError
from foundation.units import BOLTZMANN_IN_EV_PER_K

EMBEDDED = Path(str(files("foundation.data"))) / "embedded"
QUIET = Console(quiet=True)


@cache
def shipped_text() -> str:
    return lzma.decompress((EMBEDDED / GEOMETRIES_FILE).read_bytes()).decode()


@cache
def shipped_frames() -> list[ase.Atoms]:
    # Not from the compressed file itself: ASE jumps back and forth, and each jump unpacks it from its beginning.
    frames = ase.io.read(io.StringIO(shipped_text()), format="extxyz", index=":")
    assert isinstance(frames, list)
    return frames


@cache
def shipped_rows() -> list[dict[str, str]]:
    with (EMBEDDED / HANDEDNESS_FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_hydrogens(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


# ---- the lists


def test_curated_molecules_are_closed_shell_and_have_one_or_no_stereocentre():
    for molecule in curated_molecules():
        mol = Chem.MolFromSmiles(molecule.smiles)
        centres = [s for s in Chem.FindPotentialStereo(mol) if s.type == Chem.StereoType.Atom_Tetrahedral]
        electrons = sum(atom.GetAtomicNum() for atom in Chem.AddHs(mol).GetAtoms()) - molecule.total_charge
        assert len(centres) == (molecule.handedness is not None), molecule
        assert electrons % 2 == 0, molecule
        assert "\\" not in molecule.smiles
    smiles = [Chem.CanonSmiles(molecule.smiles) for molecule in curated_molecules()]
    assert len(set(smiles)) == len(smiles)


def test_enantiomers_differ_in_handedness_only_and_share_their_group():
    for smiles in ENANTIOMERS:
        one, other = describe_molecule(smiles), describe_molecule(smiles.replace("@", "@@"))
        assert {one.handedness, other.handedness} == {1, -1}
        assert one.molecule == other.molecule


@pytest.mark.parametrize(
    ("smiles", "handedness"),
    # (R)- and (S)-alanine, L-cysteine, (R)-CHFClBr, propane, and tartaric acid with two centres.
    [
        ("C[C@@H](N)C(=O)O", 1),
        ("C[C@H](N)C(=O)O", -1),
        ("N[C@@H](CS)C(=O)O", 1),
        ("F[C@](Cl)(Br)[H]", 1),
        ("CCC", None),
        ("OC(=O)[C@H](O)[C@@H](O)C(=O)O", None),
    ],
)
def test_handedness_of_molecules_whose_configuration_is_in_the_textbooks(smiles: str, handedness: int | None):
    assert describe_molecule(smiles).handedness == handedness


def test_protonation_states_share_their_group_so_that_no_split_parts_them():
    acid, anion, cation = map(describe_molecule, ["C[C@H](N)C(=O)O", "C[C@H](N)C(=O)[O-]", "C[C@H]([NH3+])C(=O)O"])
    assert acid.molecule == anion.molecule == cation.molecule
    assert (acid.total_charge, anion.total_charge, cation.total_charge) == (0, -1, 1)


def test_a_larger_draw_takes_more_substituents_and_every_molecule_once():
    drawn = handedness_molecules(9_000, seed=3)
    assert len({molecule.smiles for molecule in drawn}) == 9_000
    assert len({molecule.molecule for molecule in drawn}) == 4_500
    assert sum(molecule.handedness or 0 for molecule in drawn) == 0
    assert all(Chem.MolFromSmiles(f"[CH3]{substituent}") for substituent in SUBSTITUENTS if substituent != "H")


@pytest.mark.parametrize("count", [0, -2, 7])
def test_handedness_molecules_come_in_pairs(count: int):
    with pytest.raises(InputError, match="allowed: an even number"):
        handedness_molecules(count, seed=0)


# ---- the labels


def test_forces_are_the_negative_energy_gradient():
    mol = with_hydrogens("CC(=O)[O-]")
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    positions = embed_molecule(mol, ConformerConfig(seed=1))[0]
    labels = label_geometry(positions, numbers=numbers, total_charge=-1)
    step = np.zeros_like(positions)
    step[1, 2] = 1e-3
    energies = [label_geometry(positions + sign * step, numbers=numbers, total_charge=-1).energy for sign in (1, -1)]
    assert labels.forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / 2e-3, abs=1e-3)


def test_the_dipole_of_an_ion_is_about_the_origin_and_so_needs_its_centre_of_mass_taken_off():
    numbers = np.array([8, 1])
    positions = np.array([[0.0, 0, 0], [0, 0, 0.97]])
    labels = label_geometry(positions, numbers=numbers, total_charge=-1)
    shift = np.array([1.0, -2.0, 0.5])
    moved = label_geometry(positions + shift, numbers=numbers, total_charge=-1)
    np.testing.assert_allclose(moved.dipole - labels.dipole, -shift, atol=1e-5)
    assert labels.charges.sum() == pytest.approx(-1.0, abs=1e-6)


def test_water_has_the_energy_and_dipole_that_gfn2_is_known_for():
    # tblite's own command line gives -5.070371 Hartree for this geometry's minimum region; experiment has 1.85 D.
    angle, bond = np.deg2rad(104.5), 0.9584
    positions = bond * np.array([[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    labels = label_geometry(positions, numbers=np.array([8, 1, 1]), total_charge=0)
    assert labels.energy / 27.2114 == pytest.approx(-5.0704, abs=2e-4)
    assert np.linalg.norm(labels.dipole) / 0.208194 == pytest.approx(2.2, abs=0.2)


def test_a_geometry_that_cannot_be_labelled_is_an_error_of_its_own():
    with pytest.raises(UnlabelledError, match="Too close"):
        label_geometry(np.zeros((2, 3)), numbers=np.array([1, 1]), total_charge=0)


def test_thermal_displacements_follow_the_classical_harmonic_distribution():
    numbers = np.array([7, 7])
    conformer = relax(np.array([[0.0, 0, -0.6], [0, 0, 0.6]]), numbers=numbers, total_charge=0)
    random = np.random.default_rng(0)
    temperature = 500.0
    lengths = np.array(
        [
            np.ptp(displace(conformer, numbers=numbers, temperature=temperature, random=random), axis=0)[2]
            for _ in range(4000)
        ]
    )
    relaxed = np.ptp(conformer.positions[:, 2])

    def force_at(length: float) -> float:
        positions = np.array([[0.0, 0, -length / 2], [0, 0, length / 2]])
        return float(label_geometry(positions, numbers=numbers, total_charge=0).forces[1, 2])

    stiffness = (force_at(relaxed - 0.01) - force_at(relaxed + 0.01)) / 0.02
    assert relaxed == pytest.approx(1.098, abs=0.02)
    assert lengths.mean() == pytest.approx(relaxed, abs=3e-3)
    assert lengths.var() == pytest.approx(BOLTZMANN_IN_EV_PER_K * temperature / stiffness, rel=0.08)


def test_a_mirrored_or_broken_geometry_is_another_molecule():
    molecule = describe_molecule("C[C@H](F)Cl")
    mol = with_hydrogens(molecule.smiles)
    positions = embed_molecule(mol, ConformerConfig(seed=5))[0]
    assert is_same_molecule(positions, mol=mol, molecule=molecule)
    assert not is_same_molecule(positions * [1, 1, -1], mol=mol, molecule=molecule)
    far = positions.copy()
    far[2] += 1.5 * (far[2] - far[1])
    assert not is_same_molecule(far, mol=mol, molecule=molecule)


# ---- the shipped files


def test_shipped_files_are_small_and_complete():
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 1_500_000
    assert len(shipped_frames()) == SHIPPED_NUM_GEOMETRIES
    assert len(shipped_rows()) == SHIPPED_NUM_HANDEDNESS
    elements = {symbol for frame in shipped_frames() for symbol in frame.get_chemical_symbols()}
    assert elements == {"H", "C", "N", "O", "F", "S", "Cl"}


def test_every_shipped_frame_says_what_its_smiles_says():
    described = {molecule.smiles: molecule for molecule in curated_molecules()}
    for frame in shipped_frames():
        molecule = described[frame.info["smiles"]]
        atoms = with_hydrogens(molecule.smiles).GetAtoms()
        assert frame.get_chemical_symbols() == [atom.GetSymbol() for atom in atoms]
        assert frame.info["molecule"] == molecule.molecule
        assert frame.info["total_charge"] == molecule.total_charge
        assert frame.info["spin"] == 1
        assert frame.info.get("handedness") == molecule.handedness
        assert ("handedness" in frame.info) == (molecule.handedness is not None)
        assert frame.get_charges().sum() == pytest.approx(molecule.total_charge, abs=1e-3)
        np.testing.assert_allclose(frame.get_forces().sum(axis=0), 0, atol=2e-3)


def test_handedness_can_be_read_from_every_shipped_geometry():
    by_handedness = defaultdict(int)
    for frame in shipped_frames():
        molecule = describe_molecule(frame.info["smiles"])
        if molecule.handedness is not None:
            mol = with_hydrogens(molecule.smiles)
            assert is_same_molecule(frame.positions, mol=mol, molecule=molecule), molecule
            by_handedness[molecule.handedness] += 1
    assert by_handedness[1] == by_handedness[-1] >= 300


def test_shipped_labels_belong_to_exactly_the_shipped_positions():
    for frame in shipped_frames()[::97]:
        charge = int(frame.info["total_charge"])
        labels = label_geometry(frame.positions, numbers=frame.numbers, total_charge=charge)
        results = frame.calc.results
        dipole = labels.dipole - charge * centre_of_mass(frame.positions, frame.numbers)
        assert results["energy"] == pytest.approx(labels.energy, abs=2e-6)
        np.testing.assert_allclose(results["forces"], labels.forces, atol=1.1e-4)
        np.testing.assert_allclose(results["charges"], labels.charges, atol=1.1e-4)
        np.testing.assert_allclose(results["dipole"], dipole, atol=1.1e-4)


def test_shipped_handedness_molecules_come_in_pairs_and_never_share_a_group_with_the_geometries():
    groups = defaultdict(list)
    for row in shipped_rows():
        assert describe_molecule(row["smiles"]).handedness == int(row["handedness"])
        groups[row["molecule"]].append(int(row["handedness"]))
    assert all(sorted(pair) == [-1, 1] for pair in groups.values())
    assert not groups.keys() & {frame.info["molecule"] for frame in shipped_frames()}


def test_handedness_of_the_molecules_without_geometry_survives_embedding():
    for row in shipped_rows()[::25]:
        mol = with_hydrogens(row["smiles"])
        positions = embed_molecule(mol, ConformerConfig(seed=0))[0]
        assert is_same_molecule(positions, mol=mol, molecule=describe_molecule(row["smiles"])), row


# ---- making them again


def frames_of(text: str, smiles: str) -> str:
    """Cut one molecule's frames out of extended XYZ text."""
    stream, kept = io.StringIO(text), []
    while count := stream.readline():
        frame = [count, *(stream.readline() for _ in range(int(count) + 1))]
        if f'smiles="{smiles}"' in frame[1]:
            kept += frame
    return "".join(kept)


@pytest.mark.parametrize("smiles", ["N", "OO", "[C-]#N", "C[NH3+]", "[O-]C=O", "C[C@H](F)Cl", "C[C@@H](F)Cl"])
def test_the_program_makes_the_shipped_geometries_again_byte_for_byte(smiles: str):
    index = next(i for i, molecule in enumerate(curated_molecules()) if molecule.smiles == smiles)
    count = num_geometries_each(SHIPPED_NUM_GEOMETRIES)[index]
    assert generate_geometries(index, count=count, seed=SHIPPED_SEED) == frames_of(shipped_text(), smiles)


def test_the_program_makes_the_shipped_handedness_file_again_byte_for_byte():
    made = handedness_table(SHIPPED_NUM_HANDEDNESS, seed=SHIPPED_SEED)
    assert made.encode() == (EMBEDDED / HANDEDNESS_FILE).read_bytes()


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path):
    for workers in (1, 2):
        out = tmp_path / str(workers)
        generate(out, num_geometries=6, num_handedness=4, seed=1, workers=workers, console=QUIET)
    one, two = tmp_path / "1", tmp_path / "2"
    assert sorted(path.name for path in one.iterdir()) == [GEOMETRIES_FILE, HANDEDNESS_FILE]
    for name in (GEOMETRIES_FILE, HANDEDNESS_FILE):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert len(ase.io.read(one / GEOMETRIES_FILE, index=":")) == 6


def test_another_seed_gives_other_geometries():
    assert generate_geometries(2, count=1, seed=0) != generate_geometries(2, count=1, seed=1)


@pytest.mark.slow
def test_the_program_makes_all_shipped_files_again_byte_for_byte(tmp_path: Path):
    generate(
        tmp_path,
        num_geometries=SHIPPED_NUM_GEOMETRIES,
        num_handedness=SHIPPED_NUM_HANDEDNESS,
        seed=SHIPPED_SEED,
        workers=2,
        console=QUIET,
    )
    for name in (GEOMETRIES_FILE, HANDEDNESS_FILE):
        assert (tmp_path / name).read_bytes() == (EMBEDDED / name).read_bytes()


# ---- bad input


def test_numbers_out_of_range_are_all_reported_at_once_and_nothing_is_written(tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        generate(out, num_geometries=0, num_handedness=4, seed=-1, workers=0, console=QUIET)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["geometries", "seed", "workers"]
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    said = Console(record=True, file=io.StringIO())
    with pytest.raises(InputError, match="cannot write to"):
        generate(occupied, num_geometries=1, num_handedness=2, seed=0, workers=1, console=said)
    assert said.export_text() == "", "what would be made is told when it can be"
    assert occupied.read_text() == "mine"


def write_much(path: Path) -> None:
    with complete_or_absent(path) as file:
        file.write(bytes(100_000))


def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "kept"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_much(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
