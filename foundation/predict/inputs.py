"""What a user hands over: objects in Python, files on the command line."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ase.io
from ase import Atoms
from ase.db import connect
from rdkit import Chem, rdBase

from foundation.errors import InputError
from foundation.predict.structures import Structure, from_atoms, from_molecule, from_smiles

Input = Atoms | Chem.Mol | str
"""ASE atoms, an RDKit molecule, or SMILES."""
MAX_PROBLEMS_LISTED = 20


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

    return _collect(lambda one=one, number=number: build(number, one) for number, one in enumerate(inputs))


def read_structures(
    paths: Sequence[Path], *, charge: int | float | None = None, spin: int | None = None
) -> list[Structure]:
    """Read files in the order given; all problems are reported at once.

    Args:
        paths: `.smi`, `.csv` (a column `smiles`, and `name` if there is one), `.sdf`, `.mol`, `.xyz`, `.extxyz`,
            `.cif`, `.db`.
        charge: Total charge of every structure, e; needed where the file does not say.
        spin: Multiplicity 2S+1 of every structure; needed where the file does not say.

    Raises:
        InputError: A file is missing, of an unknown kind, empty or damaged, or one of its structures is at fault.
    """
    structures: list[Structure] = []
    for path in paths:
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path}: kind of file '{path.suffix}'; allowed: {', '.join(sorted(_READERS))}")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            found = _collect(reader(path, charge, spin))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a text file: {error}") from error
        if not found:
            raise InputError(f"{path}: holds no structures")
        structures += found
    return structures


Builder = Callable[[], Structure]


def _collect(builders: Iterator[Builder]) -> list[Structure]:
    """Build all structures, or raise all of their problems together."""
    structures, problems = [], []
    for build in builders:
        try:
            structures.append(build())
        except InputError as error:
            problems += error.problems
    if len(problems) > MAX_PROBLEMS_LISTED:
        rest = len(problems) - MAX_PROBLEMS_LISTED
        problems = [*problems[:MAX_PROBLEMS_LISTED], f"… and {rest} more problems"]
    if problems:
        raise InputError(problems)
    return structures


def _title(molecule: Chem.Mol) -> str:
    return molecule.GetProp("_Name").strip() if molecule.HasProp("_Name") else ""


def _read_smiles(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            words = line.split(maxsplit=1)
            if not words or words[0].startswith("#"):
                continue
            name = words[1].strip() if len(words) > 1 else str(number)
            yield lambda smiles=words[0], name=name, number=number: from_smiles(
                smiles, name=name, where=f"{path}, line {number}", charge=charge, spin=spin
            )


def _read_csv(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = {column.strip().lower(): column for column in rows.fieldnames or () if column}
        if "smiles" not in columns:
            raise InputError(f"{path}: no column 'smiles'; columns: {', '.join(rows.fieldnames or ()) or 'none'}")
        for row in rows:
            line = rows.line_num
            smiles = (row[columns["smiles"]] or "").strip()
            name = (row[columns["name"]] or "").strip() if "name" in columns else ""
            yield lambda smiles=smiles, name=name or str(line), line=line: from_smiles(
                smiles, name=name, where=f"{path}, line {line}", charge=charge, spin=spin
            )


def _read_sdf(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    with rdBase.BlockLogs():
        try:
            supplier = Chem.SDMolSupplier(str(path), removeHs=False)
            molecules = enumerate(supplier, start=1)
        except OSError as error:
            raise InputError(f"{path}: not readable as SDF: {error}") from error
        for number, molecule in molecules:
            yield lambda molecule=molecule, number=number: _checked_molecule(
                molecule, number=number, where=f"{path}, molecule {number}", charge=charge, spin=spin
            )


def _read_mol(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromMolFile(str(path), removeHs=False)
    yield lambda: _checked_molecule(molecule, number=1, where=str(path), charge=charge, spin=spin)


def _checked_molecule(
    molecule: Chem.Mol | None, *, number: int, where: str, charge: int | float | None, spin: int | None
) -> Structure:
    if molecule is None:
        raise InputError(f"{where}: not a valid molecule block (RDKit can neither parse nor sanitise it)")
    return from_molecule(molecule, name=_title(molecule) or str(number), where=where, charge=charge, spin=spin)


def _read_with_ase(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    kind = "cif" if path.suffix.lower() == ".cif" else "extxyz"
    try:
        frames = ase.io.read(path, index=":", format=kind)
    except (OSError, ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise InputError(f"{path}: not readable as {kind}: {error or type(error).__name__}") from error
    assert isinstance(frames, list)
    for number, atoms in enumerate(frames):
        yield lambda atoms=atoms, number=number: from_atoms(
            atoms, name=str(number), where=f"{path}, structure {number}", charge=charge, spin=spin
        )


def _read_database(path: Path, charge: int | float | None, spin: int | None) -> Iterator[Builder]:
    try:
        rows = list(connect(path, type="db", append=True).select())
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        raise InputError(f"{path}: not readable as an ASE database: {error}") from error
    for row in rows:
        yield lambda row=row: from_atoms(
            row.toatoms(),
            name=str(row.id),
            where=f"{path}, row {row.id}",
            charge=charge,
            spin=spin,
            info=row.key_value_pairs,
        )


_READERS: dict[str, Callable[[Path, int | float | None, int | None], Iterator[Builder]]] = {
    ".smi": _read_smiles,
    ".smiles": _read_smiles,
    ".csv": _read_csv,
    ".sdf": _read_sdf,
    ".mol": _read_mol,
    ".xyz": _read_with_ase,
    ".extxyz": _read_with_ase,
    ".cif": _read_with_ase,
    ".db": _read_database,
}
