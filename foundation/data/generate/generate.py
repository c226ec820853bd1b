"""Make the embedded data set, or a larger one of the same kind: `foundation data generate`."""

from __future__ import annotations

import csv
import io
import lzma
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foundation.data.generate.conformers import (
    RelaxedConformer,
    centre_of_mass,
    displace,
    embed,
    is_same_molecule,
    relax,
)
from foundation.data.generate.molecules import LabelledMolecule, curated_molecules, handedness_molecules
from foundation.data.generate.xtb import LabelledGeometry, UnlabelledError, label_geometry, require_tblite
from foundation.errors import InputError

__all__ = [
    "GEOMETRIES_FILE",
    "HANDEDNESS_FILE",
    "SHIPPED_NUM_GEOMETRIES",
    "SHIPPED_NUM_HANDEDNESS",
    "SHIPPED_SEED",
    "complete_or_absent",
    "generate",
    "generate_geometries",
    "handedness_table",
    "num_geometries_each",
]

GEOMETRIES_FILE = "gfn2.xyz.xz"
HANDEDNESS_FILE = "handedness.csv"
SHIPPED_NUM_GEOMETRIES = 2000
SHIPPED_NUM_HANDEDNESS = 1500
SHIPPED_SEED = 0

_TEMPERATURES = (300.0, 1000.0)  # K
_LARGEST_FORCE = 12.0  # eV/Å, norm on one atom
_ATTEMPTS_PER_GEOMETRY = 20
_FEWEST_CONFORMERS = 3
_MOST_CONFORMERS = 20
_DECIMALS = 4
_ENERGY_DECIMALS = 6
# Set for the workers only: one thread each, so that sums come out in one order and cores are not fought over.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def generate(out: Path, *, num_geometries: int, num_handedness: int, seed: int, workers: int, console: Console) -> None:
    """Write labelled geometries and molecules with only R or S, both complete or not at all.

    The result depends on the numbers and the seed, not on the number of workers.

    Args:
        out: Folder for `gfn2.xyz.xz` and `handedness.csv`; made if absent. Files of these names are replaced.
        num_geometries: Geometries in all, spread evenly over the curated molecules.
        num_handedness: Molecules with one stereocentre, without geometry; even.
        seed: Seed of everything random.
        workers: Processes.
        console: Where the progress bar and the summary go.

    Raises:
        InputError: A number is out of range, tblite is missing, or the folder cannot be written.
    """
    problems = [
        f"{name}: {got} given; allowed: whole numbers from {least} on"
        for name, got, least in (("geometries", num_geometries, 1), ("seed", seed, 0), ("workers", workers, 1))
        if got < least
    ]
    if problems:
        raise InputError(problems)
    require_tblite()
    table = handedness_table(num_handedness, seed=seed)
    counts = num_geometries_each(num_geometries)
    _check_writable(out)
    console.print(
        f"{num_geometries} geometries of {len(counts)} molecules ({min(counts)} to {max(counts)} each), "
        f"{num_handedness} molecules with R or S only"
    )
    try:
        with (
            complete_or_absent(out / GEOMETRIES_FILE) as geometries,
            complete_or_absent(out / HANDEDNESS_FILE) as handedness,
        ):
            handedness.write(table.encode())
            with lzma.open(geometries, "wb", format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9) as compressed:
                for frames in _frames_of_all(counts, seed=seed, workers=workers, console=console):
                    compressed.write(frames.encode())
    except OSError as error:
        raise InputError(f"generating data: cannot write to '{out}': {error.strerror or error}") from error
    sizes = ", ".join(
        f"{name} {(out / name).stat().st_size / 1e6:.2f} MB" for name in (GEOMETRIES_FILE, HANDEDNESS_FILE)
    )
    console.print(f"wrote to {out}: {sizes}")


def _check_writable(out: Path) -> None:
    """Make the folder and a file without a name in it, before there is anything to lose.

    Raises:
        InputError: It cannot be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return
    except OSError as error:
        raise InputError(f"generating data: cannot write to '{out}': {error.strerror or error}") from error


def num_geometries_each(total: int) -> list[int]:
    """Spread geometries evenly over the curated molecules, the first ones taking the remainder."""
    molecules = len(curated_molecules())
    counts = [total // molecules + (index < total % molecules) for index in range(molecules)]
    return [count for count in counts if count > 0]


def generate_geometries(index: int, *, count: int, seed: int) -> str:
    """Make the labelled geometries of one curated molecule.

    Positions are rounded before they are labelled, labels after, so that a label belongs to exactly the positions that
    stand beside it. Geometries that broke a bond, turned the stereocentre over, have a force above the bound or do not
    converge are drawn again.

    Args:
        index: The molecule's place in `curated_molecules()`.
        count: Number of geometries.
        seed: The run's seed; the molecule's own follows from it and the index.

    Returns:
        Frames in extended XYZ: energy in eV, dipole about the centre of mass in e·Å, forces in eV/Å, charges in e.
    """
    molecule = curated_molecules()[index]
    random = np.random.default_rng(np.random.SeedSequence([seed, index]))
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    conformers = _relaxed_conformers(mol, molecule=molecule, numbers=numbers, count=count, random=random)
    frames: list[str] = []
    for attempt in range(_ATTEMPTS_PER_GEOMETRY * count):
        temperature = random.uniform(*_TEMPERATURES)
        positions = displace(
            conformers[attempt % len(conformers)], numbers=numbers, temperature=temperature, random=random
        )
        positions = _rounded(positions)
        if not is_same_molecule(positions, mol=mol, molecule=molecule):
            continue
        try:
            labels = label_geometry(positions, numbers=numbers, total_charge=molecule.total_charge)
        except UnlabelledError:
            continue
        if np.linalg.norm(labels.forces, axis=1).max() > _LARGEST_FORCE:
            continue
        frames.append(_frame(mol, molecule=molecule, numbers=numbers, positions=positions, labels=labels))
        if len(frames) == count:
            return "".join(frames)
    raise RuntimeError(
        f"molecule '{molecule.smiles}': only {len(frames)} of {count} geometries were usable; it should leave the list"
    )


def handedness_table(count: int, *, seed: int) -> str:
    """Write SMILES, handedness and group of combinatorial molecules as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["smiles", "handedness", "molecule"])
    writer.writerows(
        [drawn.smiles, drawn.handedness, drawn.molecule] for drawn in handedness_molecules(count, seed=seed)
    )
    return text.getvalue()


def _relaxed_conformers(
    mol: Chem.Mol,
    *,
    molecule: LabelledMolecule,
    numbers: Int[np.ndarray, " atoms"],
    count: int,
    random: np.random.Generator,
) -> list[RelaxedConformer]:
    """Embed and relax conformers and keep those that stayed the same molecule."""
    wanted = min(count, max(_FEWEST_CONFORMERS, min(count // 10, _MOST_CONFORMERS)))
    kept = []
    for positions in embed(mol, count=wanted, seed=int(random.integers(2**31 - 1))):
        try:
            conformer = relax(positions, numbers=numbers, total_charge=molecule.total_charge)
        except UnlabelledError:
            continue
        if is_same_molecule(conformer.positions, mol=mol, molecule=molecule):
            kept.append(conformer)
    if not kept:
        raise RuntimeError(
            f"molecule '{molecule.smiles}': no conformer keeps its bonds in GFN2-xTB; it should leave the list"
        )
    return kept


def _frame(
    mol: Chem.Mol,
    *,
    molecule: LabelledMolecule,
    numbers: Int[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    labels: LabelledGeometry,
) -> str:
    """Write one frame of extended XYZ."""
    dipole = _rounded(labels.dipole - molecule.total_charge * centre_of_mass(positions, numbers))
    handedness = "" if molecule.handedness is None else f" handedness={molecule.handedness}"
    lines = [
        str(len(numbers)),
        "Properties=species:S:1:pos:R:3:forces:R:3:charges:R:1 "
        f'energy={labels.energy:.{_ENERGY_DECIMALS}f} dipole="{_columns(dipole, separator=" ")}" '
        f'total_charge={molecule.total_charge} spin=1 smiles="{molecule.smiles}" molecule={molecule.molecule}'
        f'{handedness} pbc="F F F"',
    ]
    rows = np.concatenate([positions, _rounded(labels.forces), _rounded(labels.charges)[:, None]], axis=1)
    lines += [
        f"{atom.GetSymbol()} {_columns(row, separator=' ')}" for atom, row in zip(mol.GetAtoms(), rows, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _rounded(values: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """Round to the decimals that are written; adding zero turns -0 into 0."""
    return np.round(values, _DECIMALS) + 0.0


def _columns(values: Float[np.ndarray, " values"], *, separator: str) -> str:
    return separator.join(f"{value:.{_DECIMALS}f}" for value in values)


def _frames_of_all(counts: list[int], *, seed: int, workers: int, console: Console) -> Iterator[str]:
    """Yield the frames of each molecule in the list's order, whatever order the workers finish in."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        _environment(_ONE_THREAD),
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("geometries", total=sum(counts))
        futures = [
            pool.submit(generate_geometries, index, count=count, seed=seed) for index, count in enumerate(counts)
        ]
        for future, count in zip(futures, counts, strict=True):
            future.add_done_callback(lambda _, count=count: progress.advance(task, count))
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started meanwhile, and put the old ones back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def complete_or_absent(path: Path) -> Iterator[IO[bytes]]:
    """Write beside the path and rename at the end, so that a file of this name is always whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
