"""Extended XYZ as it is met in the wild, and broken files that must not pass."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foundation.data.files import DataFile
from foundation.data.readers.extxyz import parse_comment, read_extxyz_frames
from foundation.data.readers.record import RawFrame
from foundation.errors import InputError


def frames(path: Path, limit: int | None = None) -> list[RawFrame]:
    return list(read_extxyz_frames(DataFile(path=path, format="extxyz", split=None, sha256=None), limit=limit))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_comments_keep_their_keys_and_types():
    info = parse_comment(
        'Lattice="1 0 0 0 2 0 0 0 3" energy=-1.5e2 mtt::r2scan_energy=-7 label=CC flag=T off=F alone <R2>=3.5 '
        'smiles="C/C=C\\\\n1cccc1" quoted="say \\"x\\"" list=[1, 2.5] old={1 2 3} json="_JSON [[1, 2], [3, 4]]"',
        where="x",
    )
    assert info["energy"] == -150.0
    assert info["mtt::r2scan_energy"] == -7
    assert info["label"] == "CC"
    assert (info["flag"], info["off"], info["alone"]) == (True, False, True)
    assert info["smiles"] == "C/C=C\\\\n1cccc1"
    assert info["quoted"] == 'say "x"'
    assert info["list"] == [1, 2.5]
    assert np.asarray(info["old"]).tolist() == [1, 2, 3]
    assert info["json"] == [[1, 2], [3, 4]]
    assert info["<R2>"] == 3.5
    assert np.asarray(info["Lattice"]).tolist() == [1, 0, 0, 0, 2, 0, 0, 0, 3]


def test_quotes_with_inner_spaces_are_understood(tmp_path: Path):
    path = write(
        tmp_path / "a.xyz",
        '1\nLattice="0 0 0 0 0 0 0 0 0" Properties="species:S:1:pos:R:3"  mu="  5.6932847e+00    8.6 9.0 " \nO 0 0 0\n',
    )
    (frame,) = frames(path)
    assert np.asarray(frame.values["mu"]).tolist() == [5.6932847, 8.6, 9.0]


@settings(max_examples=10)
@example(energy=1.0, forces=[0.0, 0.0, 0.0], periodic=(False, False, False), text="\\")
@given(
    energy=st.floats(-1e6, 1e6),
    forces=st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    text=st.text("CNO()=#/\\@[]+-1", min_size=1, max_size=12),
)
def test_what_ase_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    energy: float,
    forces: list[float],
    periodic: tuple[bool, bool, bool],
    text: str,
):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=[5, 6, 7], pbc=periodic)
    atoms.info["name"] = f"x {text}"
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.array([forces, forces]))
    path = tmp_path_factory.mktemp("ase") / "a.extxyz"
    ase.io.write(path, atoms, format="extxyz")
    (frame,) = frames(path)
    assert frame.values["energy"] == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(np.asarray(frame.values["forces"]), [forces, forces], atol=1e-7)
    np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
    assert frame.atomic_numbers.tolist() == [6, 8]
    assert frame.pbc == periodic
    assert frame.values["name"] == f"x {text}"


@pytest.mark.parametrize(("suffix", "opener"), [("xyz.gz", gzip.open), ("xyz.xz", lzma.open)])
def test_compressed_files_are_read(tmp_path: Path, suffix: str, opener):
    path = tmp_path / f"a.{suffix}"
    with opener(path, "wt") as stream:
        stream.write("1\nenergy=1\nH 0 0 0\n" * 3)
    assert len(frames(path)) == 3
    assert len(frames(path, limit=2)) == 2


def test_plain_xyz_is_free_and_a_lattice_alone_means_periodic(tmp_path: Path):
    plain, boxed = frames(write(tmp_path / "a.xyz", '1\n\nH 0 0 0\n1\nLattice="5 0 0 0 5 0 0 0 5"\nH 0 0 0\n'))
    assert plain.pbc == (False, False, False)
    assert plain.cell is None
    assert boxed.pbc == (True, True, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two\nenergy=1\nH 0 0 0\n", "got 'two' where the number of atoms must stand"),
        ("3\nenergy=1\nH 0 0 0\n", "ends within the frame's 3 atoms"),
        ("1\nenergy=1\nH 0 0\n", "atom line 0 has 3 columns; allowed: 4"),
        ("1\nenergy=1\nH 0 0 x\n", "column 'pos' holds something that is no number"),
        ("1\nenergy=1\nQq 0 0 0\n", "'Qq' is no element"),
        ("1\nProperties=species:S:1:forces:R:3\nH 0 0 0\n", "no pos:R:3"),
        ("1\nProperties=species:S:1:pos:R\nH 0 0 0\n", "name:type:columns triples"),
        ('1\npbc="T T"\nH 0 0 0\n', "three of T and F"),
        ('1\nLattice="a b c"\nH 0 0 0\n', "allowed: 9 numbers"),
        ('1\nextra="_JSON [[1, 2"\nH 0 0 0\n', r"key 'extra': got \"_JSON \[\[1, 2\"; allowed: JSON behind _JSON"),
        ('1\nLattice="1 2 3"\nH 0 0 0\n', "Lattice has 3 numbers"),
    ],
)
def test_broken_frames_name_file_and_frame(tmp_path: Path, text: str, message: str):
    path = write(tmp_path / "broken.xyz", "1\nenergy=1\nH 0 0 0\n" + text)
    with pytest.raises(InputError, match=message) as caught:
        frames(path)
    assert "broken.xyz: frame 1" in str(caught.value)


def test_a_truncated_archive_is_an_input_error(tmp_path: Path):
    path = tmp_path / "a.xyz.xz"
    path.write_bytes(lzma.compress(b"1\nenergy=1\nH 0 0 0\n" * 100)[:-20])
    with pytest.raises(InputError, match=r"a\.xyz\.xz: cannot be read"):
        frames(path)
