"""Recipes on files of a few structures, with a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

RECIPE = """
extends: [base, backbones/xs]
model:
  backbone: {{num_layers: 1, cutoff: 3.0, channels: 8, pseudo_channels: 0, radial_width: 8}}
data:
  mine:
    source: {{train: {train}, val: {val}}}
    format: extxyz
    level_of_theory: EMT
    charge: 0
    spin: {{key: spin}}
    split: {{by: given}}
    properties:
      energy: {{key: energy, unit: eV, optional: true}}
      forces: {{key: forces, unit: eV/Å, optional: true}}
      stress: {{key: stress, unit: eV/Å³, optional: true}}
      dipole: {{key: dipole, unit: e·Å, optional: true}}
tasks:
  energy: {{property: energy, data: [mine], weight: 1}}
schedule: {{warmup_steps: 1}}
batch: {{max_structures: 2}}
trainer: {{max_epochs: 1, accelerator: cpu, log_every_n_steps: 1, enable_progress_bar: false}}
report: false
"""

Write = Callable[..., Path]


@pytest.fixture
def structure() -> Callable[..., Atoms]:
    """A short chain of atoms with the labels that are named."""

    def make(symbols: str, *, seed: int, pbc: bool | list[bool] = False, **labels: object) -> Atoms:
        random = np.random.default_rng(seed)
        positions = np.arange(len(Atoms(symbols)))[:, None] * np.array([1.1, 0.2, 0.1])
        positions = positions + random.normal(scale=0.05, size=positions.shape)
        atoms = Atoms(symbols, positions=positions, pbc=pbc, cell=np.eye(3) * 5 if np.any(pbc) else None)
        atoms.info["spin"] = 1 + int(atoms.numbers.sum()) % 2
        atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms

    return make


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Write training and validation structures and a recipe that reads them."""

    def write(*, train: list[Atoms], val: list[Atoms]) -> Path:
        paths = {name: tmp_path / f"{name}.xyz" for name in ("train", "val")}
        for name, frames in (("train", train), ("val", val)):
            ase.io.write(paths[name], frames, format="extxyz")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE.format(**paths), encoding="utf-8")
        return recipe

    return write
