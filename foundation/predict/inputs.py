"""What a user hands over: objects in Python, files on the command line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ase import Atoms
from rdkit import Chem

from foundation.data.files import DataFile, Format
from foundation.data.readers.ase_files import read_ase_frames
from foundation.data.readers.cif import read_cif_frames
from foundation.data.readers.extxyz import read_extxyz_frames
from foundation.data.readers.molecule import quiet
from foundation.data.readers.open_file import open_binary, open_text
from foundation.data.readers.record import RawFrame
from foundation.errors import InputError
from foundation.predict.structures import Structure, from_atoms, from_frame, from_molecule, from_smiles
from foundation.wording import counted

Input = Atoms | Chem.Mol | str
"""ASE atoms, an RDKit molecule, or SMILES."""
MAX_PROBLEMS_LISTED = 20
NUMBERS_LISTED = 3
"""Of the structures that one fault is told of."""


def structures_of(
    inputs: Sequence[Input], *, charge: int | float | None = None, spin: int | None = None
) -> list[Structure]:
    """Take objects; all problems are reported at once.

    Raises:
        InputError: SMILES that cannot be parsed, charge or spin that are stated nowhere, an object of another type.
    """

    def build(number: int, one: object) -> Structure:
        where, name = f"input {number}", str(number)
        if isinstance(one, Atoms):
            return from_atoms(one, name=name, where=where, charge=charge, spin=spin)
        if isinstance(one, Chem.Mol):
            return from_molecule(one, name=_title(one) or name, where=where, charge=charge, spin=spin)
        if isinstance(one, str):
            return from_smiles(one, name=name, where=where, charge=charge, spin=spin)
        raise InputError(f"{where}: got {type(one).__name__}; allowed: ase.Atoms, an RDKit molecule, a SMILES string")

    items = (
        _Item(f"input {number}", "input", str(number), lambda one=one, number=number: build(number, one))
        for number, one in enumerate(inputs)
    )
    return _collect(items, within="")


def read_structures(
    paths: Sequence[Path], *, charge: int | float | None = None, spin: int | None = None
) -> list[Structure]:
    """Read files in the order given; all problems are reported at once.

    Args:
        paths: `.smi`, `.csv` (a column `smiles`, and `name` if there is one), `.sdf`, `.mol`, `.xyz`, `.extxyz`,
            `.cif`, `.db`, `.traj`; all but the last two also compressed (`.gz`, `.xz`, `.bz2`).
        charge: Total charge of every structure, e; needed where the file does not say.
        spin: Multiplicity 2S+1 of every structure; needed where the file does not say.

    Raises:
        InputError: A file is missing, of an unknown kind, empty or damaged, or one of its structures is at fault.
    """
    structures: list[Structure] = []
    for path in paths:
        kind = path.with_suffix("").suffix if path.suffix.lower() in _COMPRESSIONS else path.suffix
        reader = _READERS.get(kind.lower())
        if reader is None:
            raise InputError(f"{path}: kind of file '{kind}'; allowed: {', '.join(_READERS)}")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        found = _collect(reader(path, charge, spin), within=f"{path}: ")
        if not found:
            raise InputError(f"{path}: holds no structures")
        structures += found
    return structures


@dataclass(frozen=True)
class _Item:
    """A structure that is still to be built.

    Attributes:
        where: What to call it in errors.
        noun: What its file consists of: `frame`, `line`.
        number: Which of them it is.
        build: Makes it.
    """

    where: str
    noun: str
    number: str
    build: Callable[[], Structure]


Reader = Callable[[Path, int | float | None, int | None], Iterator[_Item]]
Frames = Callable[[DataFile], Iterator[RawFrame]]


def _collect(items: Iterator[_Item], *, within: str) -> list[Structure]:
    """Build all structures, or raise all of their problems together: what is wrong with several is told once.

    Args:
        items: The structures.
        within: What several of them are in, for errors: the file.
    """
    structures: list[Structure] = []
    faults: dict[str, list[_Item]] = {}
    for item in items:
        try:
            structures.append(item.build())
        except InputError as error:
            for problem in error.problems:
                faults.setdefault(problem.removeprefix(f"{item.where}: "), []).append(item)
    problems = _told_once(faults, within=within)
    if len(problems) > MAX_PROBLEMS_LISTED:
        rest = len(problems) - MAX_PROBLEMS_LISTED
        problems = [*problems[:MAX_PROBLEMS_LISTED], f"… and {rest} more problems"]
    if problems:
        raise InputError(problems)
    return structures


def _told_once(faults: Mapping[str, Sequence[_Item]], *, within: str) -> list[str]:
    problems = []
    for fault, items in faults.items():
        listed = ", ".join(item.number for item in items[:NUMBERS_LISTED])
        several = f"{within}{counted(len(items), items[0].noun)} ({listed}{', …' * (len(items) > NUMBERS_LISTED)})"
        problems.append(f"{items[0].where if len(items) == 1 else several}: {fault}")
    return problems


def _title(molecule: Chem.Mol) -> str:
    return molecule.GetProp("_Name").strip() if molecule.HasProp("_Name") else ""


def _read_smiles(path: Path, charge: int | float | None, spin: int | None) -> Iterator[_Item]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            words = line.split(maxsplit=1)
            if not words or words[0].startswith("#"):
                continue
            name = words[1].strip() if len(words) > 1 else str(number)
            yield _line(words[0], path=path, number=number, name=name, charge=charge, spin=spin)


def _line(smiles: str, *, path: Path, number: int, name: str, charge: int | float | None, spin: int | None) -> _Item:
    where = f"{path}, line {number}"
    build = partial(from_smiles, smiles, name=name, where=where, charge=charge, spin=spin)
    return _Item(where, "line", str(number), build)


def _read_csv(path: Path, charge: int | float | None, spin: int | None) -> Iterator[_Item]:
    with open_text(path) as file:
        rows = csv.DictReader(file)
        columns = {column.strip().lower(): column for column in rows.fieldnames or () if column}
        if "smiles" not in columns:
            raise InputError(f"{path}: no column 'smiles'; columns: {', '.join(rows.fieldnames or ()) or 'none'}")
        for row in rows:
            line = rows.line_num
            smiles = (row[columns["smiles"]] or "").strip()
            name = (row[columns["name"]] or "").strip() if "name" in columns else ""
            yield _line(smiles, path=path, number=line, name=name or str(line), charge=charge, spin=spin)


def _read_sdf(path: Path, charge: int | float | None, spin: int | None) -> Iterator[_Item]:
    with open_binary(path) as stream, quiet():
        for number, molecule in enumerate(Chem.ForwardSDMolSupplier(stream, removeHs=False), start=1):
            where = f"{path}, molecule {number}"
            build = partial(_checked_molecule, molecule, number=number, where=where, charge=charge, spin=spin)
            yield _Item(where, "molecule", str(number), build)


def _checked_molecule(
    molecule: Chem.Mol | None, *, number: int, where: str, charge: int | float | None, spin: int | None
) -> Structure:
    if molecule is None:
        raise InputError(f"{where}: RDKit cannot read this molecule (or its valences are impossible)")
    return from_molecule(molecule, name=_title(molecule) or str(number), where=where, charge=charge, spin=spin)


def _from_frames(frames: Frames, data_format: Format) -> Reader:
    """Make a reader of structures from one of frames that the training data are read with, too."""

    def read(path: Path, charge: int | float | None, spin: int | None) -> Iterator[_Item]:
        file = DataFile(path=path, format=data_format, split=None, sha256=None)
        for number, frame in enumerate(frames(file)):
            noun, _, called = frame.where.removeprefix(f"{path}: ").partition(" ")  # frame 3, row 7, block 'quartz'
            build = partial(from_frame, frame, name=str(number), charge=charge, spin=spin)
            yield _Item(frame.where, noun, called, build)

    return read


_read_extxyz = _from_frames(partial(read_extxyz_frames, limit=None), "extxyz")
_read_cif = _from_frames(partial(read_cif_frames, limit=None), "cif")
_read_ase = _from_frames(partial(read_ase_frames, limit=None), "ase")
_READERS: dict[str, Reader] = {
    ".smi": _read_smiles,
    ".csv": _read_csv,
    ".sdf": _read_sdf,
    ".mol": _read_sdf,
    ".xyz": _read_extxyz,
    ".extxyz": _read_extxyz,
    ".cif": _read_cif,
    ".db": _read_ase,
    ".traj": _read_ase,
}
_COMPRESSIONS = (".gz", ".xz", ".bz2")
