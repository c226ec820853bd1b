"""The same structures for every program: extended XYZ in eV and Å, written once into the cache."""

from __future__ import annotations

import io
import json
import lzma
import os
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from foundation.errors import InputError

__all__ = ["Frames", "Split", "cache_root", "data_root", "load_frames", "rmd17_split", "speed_structures"]

KCAL_PER_MOL = units.kcal / units.mol
FRAMES_PER_EPOCH = 950
"""Rivals count validations and schedules in epochs; their training file repeats a small set up to this length."""
SPEED_MOLECULES = 64
WATER_REPEATS = {192: (1, 1, 1), 1536: (2, 2, 2), 12288: (4, 4, 4)}


def data_root() -> Path:
    """Where the published data lie: FOUNDATION_DATA, else `../shared/data` beside the checkout.

    Raises:
        InputError: There is no such folder.
    """
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("FOUNDATION_DATA", beside))
    if not root.is_dir():
        raise InputError(f"FOUNDATION_DATA: got '{root}', no such folder; allowed: the folder that holds rmd17/")
    return root.resolve()


def cache_root() -> Path:
    """Where environments, inputs and runs go: BAKEOFF_CACHE, else `~/.cache/foundation/bakeoff`."""
    return Path(os.environ.get("BAKEOFF_CACHE", Path.home() / ".cache" / "foundation" / "bakeoff")).expanduser()


@dataclass(frozen=True)
class Split:
    """Files of one training set.

    Attributes:
        train: Each training frame once.
        train_repeated: The same frames, repeated in order up to `FRAMES_PER_EPOCH` if there are fewer.
        val: Validation frames.
        test: The official test frames.
        labels: Energies and forces of the test frames, npz.
    """

    train: Path
    train_repeated: Path
    val: Path
    test: Path
    labels: Path


@dataclass(frozen=True)
class Frames:
    """Labels of some frames of one molecule.

    Attributes:
        energy: `[frames]`, eV.
        forces: `[frames, atoms, 3]`, eV/Å.
    """

    energy: np.ndarray
    forces: np.ndarray


def rmd17_split(molecule: str, *, num_train: int, num_val: int, num_test: int) -> Split:
    """Write the first training frames of official split 01, the next ones for validation, and its first test frames.

    The mean energy of the training frames is taken off all energies: some programs keep total energies in float32,
    which would round those of aspirin (-17,618 eV) to 2 meV.

    Args:
        molecule: As in the file's name.
        num_train: From the official training part.
        num_val: The frames that follow them.
        num_test: From the official test part; all of it is 1,000.

    Raises:
        InputError: No such molecule, or not that many frames.
    """
    source = data_root() / "rmd17" / f"rmd17_{molecule}_split01.npz"
    if not source.is_file():
        known = ", ".join(sorted(p.name.split("_")[1] for p in source.parent.glob("rmd17_*_split01.npz")))
        raise InputError(f"molecule: got '{molecule}'; allowed: {known}")
    folder = cache_root() / "inputs" / f"rmd17_{molecule}_{num_train}_{num_val}_{num_test}"
    split = Split(
        train=folder / "train.xyz",
        train_repeated=folder / "train_repeated.xyz",
        val=folder / "val.xyz",
        test=folder / "test.xyz",
        labels=folder / "test_labels.npz",
    )
    if split.labels.is_file():
        return split
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(source) as arrays:
        shift = float(arrays["train_energies"][:num_train].mean())
        train, test = _frames(arrays, "train", shift=shift), _frames(arrays, "test", shift=shift)
    if num_train + num_val > len(train) or num_test > len(test):
        raise InputError(
            f"rmd17 {molecule}: {num_train} + {num_val} training and {num_test} test frames asked for; "
            f"allowed: at most {len(train)} and {len(test)}"
        )
    chosen = train[:num_train]
    repeats = -(-FRAMES_PER_EPOCH // num_train)
    ase.io.write(split.train, chosen, format="extxyz")
    ase.io.write(split.train_repeated, chosen * repeats, format="extxyz")
    ase.io.write(split.val, train[num_train : num_train + num_val], format="extxyz")
    ase.io.write(split.test, test[:num_test], format="extxyz")
    labels = {
        "energy": np.array([atoms.get_potential_energy() for atoms in test[:num_test]]),
        "forces": np.stack([atoms.get_forces() for atoms in test[:num_test]]),
    }
    temporary = folder / "labels.tmp.npz"
    np.savez_compressed(temporary, allow_pickle=False, **labels)
    temporary.replace(split.labels)
    return split


def load_frames(path: Path) -> Frames:
    """Read energies and forces that `rmd17_split` or a program's predictor wrote."""
    with np.load(path) as arrays:
        return Frames(energy=arrays["energy"], forces=arrays["forces"])


def _frames(arrays: np.lib.npyio.NpzFile, part: str, *, shift: float) -> list[Atoms]:
    """Frames with labels in eV and eV/Å; `shift` (kcal/mol) is taken off all energies."""
    numbers = arrays["nuclear_charges"]
    frames = []
    for positions, energy, forces in zip(
        arrays[f"{part}_coords"], arrays[f"{part}_energies"], arrays[f"{part}_forces"], strict=True
    ):
        atoms = Atoms(numbers, positions)
        atoms.calc = SinglePointCalculator(
            atoms, energy=(float(energy) - shift) * KCAL_PER_MOL, forces=np.asarray(forces) * KCAL_PER_MOL
        )
        frames.append(atoms)
    return frames


def speed_structures() -> Path:
    """Write what throughput is measured on: aspirin frames with labels, and water boxes built from one of 192 atoms.

    Returns:
        A folder with `aspirin.xyz` and `water192.xyz`, `water1536.xyz`, `water12288.xyz`.
    """
    folder = cache_root() / "inputs" / "speed"
    done = folder / "done.json"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(data_root() / "rmd17" / "rmd17_aspirin_split01.npz") as arrays:
        shift = float(arrays["train_energies"].mean())
        frames = _frames(arrays, "train", shift=shift)[:SPEED_MOLECULES]
        ase.io.write(folder / "aspirin.xyz", frames, format="extxyz")
    with lzma.open(data_root() / "water_revpbe0" / "test_water.xyz.xz", "rt") as file:
        box = next(iter(ase.io.iread(io.StringIO(file.read()), format="extxyz")))
    assert isinstance(box, Atoms)
    box = Atoms(box.numbers, box.positions, cell=box.cell, pbc=True)
    if len(box) != 192:
        raise InputError(f"water_revpbe0: the first box has {len(box)} atoms; allowed: 192")
    for size, repeats in WATER_REPEATS.items():
        ase.io.write(folder / f"water{size}.xyz", box.repeat(repeats), format="extxyz")
    done.write_text(json.dumps({"water": list(WATER_REPEATS), "aspirin": SPEED_MOLECULES}), encoding="utf-8")
    return folder
