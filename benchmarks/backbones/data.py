"""The same structures for every program: extended XYZ in eV and Å, written once into the cache."""

from __future__ import annotations

import io
import json
import lzma
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from foundation.errors import InputError

__all__ = [
    "BPA",
    "Frames",
    "Split",
    "cache_root",
    "data_root",
    "load_frames",
    "speed_structures",
    "written_split",
]

BPA = "3bpa"
"""3-(benzyloxy)pyridin-2-amine, trained at 300 K."""
HOT = 1.6
"""eV/Å: frames of 3BPA's mixed temperatures whose force components have a larger standard deviation are tested too."""
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
        test: The official test frames, then hot ones where there are any.
        labels: Energies and forces of the test frames, and which are hot, npz.
        level_of_theory: Of the labels.
    """

    train: Path
    train_repeated: Path
    val: Path
    test: Path
    labels: Path
    level_of_theory: str


@dataclass(frozen=True)
class Frames:
    """Labels of some frames of one molecule.

    Attributes:
        energy: `[frames]`, eV.
        forces: `[frames, atoms, 3]`, eV/Å.
        hot: `[frames]`, whether a frame is one of the hot ones.
    """

    energy: np.ndarray
    forces: np.ndarray
    hot: np.ndarray


def written_split(molecule: str, *, num_train: int, num_val: int, num_test: int) -> Split:
    """Write the first training frames, the next ones for validation, the first test frames and all hot ones.

    The mean energy of the training frames is taken off all energies: some programs keep total energies in float32,
    which would round those of aspirin (-17,618 eV) to 2 meV.

    Args:
        molecule: One of rMD17, official split 01, as in the file's name; or `3bpa`.
        num_train: From the official training part.
        num_val: The frames that follow them.
        num_test: From the official test part.

    Raises:
        InputError: No such molecule, or not that many frames.
    """
    name = molecule if molecule == BPA else f"rmd17_{molecule}"
    folder = cache_root() / "inputs" / f"{name}_{num_train}_{num_val}_{num_test}"
    split = Split(
        train=folder / "train.xyz",
        train_repeated=folder / "train_repeated.xyz",
        val=folder / "val.xyz",
        test=folder / "test.xyz",
        labels=folder / "test_labels.npz",
        level_of_theory="ωB97X/6-31G(d)" if molecule == BPA else "PBE/def2-SVP",
    )
    if split.labels.is_file():
        return split
    official = _bpa() if molecule == BPA else _rmd17(molecule)
    if num_train + num_val > len(official.train) or num_test > len(official.test):
        raise InputError(
            f"{name}: {num_train} + {num_val} training and {num_test} test frames asked for; "
            f"allowed: at most {len(official.train)} and {len(official.test)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shift = float(np.mean([atoms.get_potential_energy() for atoms in official.train[:num_train]]))
    train, test, hot = (_shifted(frames, shift) for frames in (official.train, official.test[:num_test], official.hot))
    chosen = train[:num_train]
    repeats = -(-FRAMES_PER_EPOCH // num_train)
    ase.io.write(split.train, chosen, format="extxyz")
    ase.io.write(split.train_repeated, chosen * repeats, format="extxyz")
    ase.io.write(split.val, train[num_train : num_train + num_val], format="extxyz")
    ase.io.write(split.test, test + hot, format="extxyz")
    labels = {
        "energy": np.array([atoms.get_potential_energy() for atoms in test + hot]),
        "forces": np.stack([atoms.get_forces() for atoms in test + hot]),
        "hot": np.array([False] * len(test) + [True] * len(hot)),
    }
    temporary = folder / "labels.tmp.npz"
    np.savez_compressed(temporary, allow_pickle=False, **labels)
    temporary.replace(split.labels)
    return split


def load_frames(path: Path) -> Frames:
    """Read energies and forces that `written_split` or a program's predictor wrote."""
    with np.load(path) as arrays:
        energy = arrays["energy"]
        hot = arrays["hot"] if "hot" in arrays else np.zeros(len(energy), dtype=bool)
        return Frames(energy=energy, forces=arrays["forces"], hot=hot)


@dataclass(frozen=True)
class _Official:
    """Published frames, energies in eV and forces in eV/Å."""

    train: list[Atoms]
    test: list[Atoms]
    hot: list[Atoms]


def _rmd17(molecule: str) -> _Official:
    source = data_root() / "rmd17" / f"rmd17_{molecule}_split01.npz"
    if not source.is_file():
        known = ", ".join(sorted(p.name.split("_")[1] for p in source.parent.glob("rmd17_*_split01.npz")))
        raise InputError(f"molecule: got '{molecule}'; allowed: {BPA}, {known}")
    with np.load(source) as arrays:
        return _Official(train=_frames(arrays, "train"), test=_frames(arrays, "test"), hot=[])


def _bpa() -> _Official:
    folder = data_root() / BPA
    train, mixed = (_free_molecules(folder / f"train_{which}.xyz.xz") for which in ("300K", "mixedT"))
    with np.load(folder / "test_300K.npz") as arrays:
        test = [
            _labelled(arrays["atomic_numbers"], positions, energy=float(energy), forces=forces)
            for positions, energy, forces in zip(
                arrays["positions"], arrays["energy"].reshape(-1), arrays["forces"], strict=True
            )
        ]
    hot = [atoms for atoms in mixed if atoms.get_forces().std() > HOT]
    return _Official(train=train, test=test, hot=hot)


def _free_molecules(file: Path) -> list[Atoms]:
    """Frames of an extended XYZ file without the box that is drawn round them."""
    with lzma.open(file, "rt") as stream:
        frames = list(ase.io.iread(io.StringIO(stream.read()), format="extxyz"))
    return [
        _labelled(atoms.numbers, atoms.positions, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        for atoms in frames
        if isinstance(atoms, Atoms)
    ]


def _frames(arrays: np.lib.npyio.NpzFile, part: str) -> list[Atoms]:
    """Frames of rMD17."""
    return [
        _labelled(
            arrays["nuclear_charges"], positions, energy=float(energy) * KCAL_PER_MOL, forces=forces * KCAL_PER_MOL
        )
        for positions, energy, forces in zip(
            arrays[f"{part}_coords"], arrays[f"{part}_energies"], arrays[f"{part}_forces"], strict=True
        )
    ]


def _shifted(frames: Sequence[Atoms], shift: float) -> list[Atoms]:
    """Frames with `shift` (eV) taken off their energies."""
    return [
        _labelled(
            atoms.numbers,
            atoms.positions,
            energy=atoms.get_potential_energy() - shift,
            forces=atoms.get_forces(),
        )
        for atoms in frames
    ]


def _labelled(numbers: np.ndarray, positions: np.ndarray, *, energy: float, forces: np.ndarray) -> Atoms:
    atoms = Atoms(numbers, positions)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.asarray(forces))
    return atoms


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
        frames = _frames(arrays, "train")
    shift = float(np.mean([atoms.get_potential_energy() for atoms in frames]))
    ase.io.write(folder / "aspirin.xyz", _shifted(frames[:SPEED_MOLECULES], shift), format="extxyz")
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
