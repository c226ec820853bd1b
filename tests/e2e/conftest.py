"""A user's own file: ethanol and methanol, thermally displaced, labelled by ASE's effective-medium potential."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from foundation.cli import main

from .interrupting import QUIET

RECIPE = """
extends: [base, backbones/xs]
model:
  backbone: {{cutoff: 4.0, channels: 8, pseudo_channels: 4, radial_width: 16, edge_degree: 2, product_degree: 2}}
data:
  mine:
    source: {source}
    format: extxyz
    level_of_theory: EMT
    charge: 0
    spin: 1
    properties:
      energy: {{key: energy, unit: eV}}
      forces: {{key: forces, unit: eV/Å}}
    split: {{train: 20, val: 4, test: 6, seed: 0}}
tasks:
  energy: {{property: energy, data: [mine], weight: 1}}
  forces: {{property: forces, data: [mine], weight: 10}}
optimizer: {{learning_rate: 0.01}}
schedule: {{warmup_steps: 2}}
batch: {{max_structures: 4}}
trainer: {{max_epochs: 3, log_every_n_steps: 1}}
seed: 3
"""


@pytest.fixture(scope="session")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames with energy and forces under ASE's own keys."""
    random = np.random.default_rng(0)
    frames = []
    for index in range(30):
        atoms = molecule("CH3OH" if index % 2 else "CH3CH2OH")
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("own") / "my.xyz"
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.fixture(scope="session")
def own_recipe(own_file: Path) -> Path:
    """The recipe of the README with that file and a tiny model."""
    path = own_file.with_name("mine.yaml")
    path.write_text(RECIPE.format(source=own_file), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def uninterrupted(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of that recipe, three epochs of five steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", str(own_recipe), "--out", str(out), *QUIET]) == 0
    return out
