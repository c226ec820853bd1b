"""One Slurm for all tests of this folder, and a pretraining recipe for two nodes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from .cluster import Cluster, missing_programs

RECIPE = """
extends: [base, backbones/xs]
model:
  backbone: {{cutoff: 4.0, channels: 8, pseudo_channels: 4, radial_width: 16, edge_degree: 2, product_degree: 2}}
data:
  molecules:
    source: {{train: {train}, val: {val}}}
    format: extxyz
    level_of_theory: none
    charge: 0
    spin: 1
    split: {{by: given}}
    properties: {{}}
objectives:
  denoising: {{kind: denoising, sigma: 0.1, weight: 1}}
  masked_atoms: {{kind: masked_atoms, fraction: 0.2, weight: 0.3}}
batch: {{max_structures: 4}}
ema: {{decay: 0.99}}
schedule: {{warmup_steps: 2}}
checkpoint_minutes: 0.05
report: false
threads: 1
trainer: {{max_epochs: 30, accelerator: cpu, log_every_n_steps: 1, enable_progress_bar: false}}
seed: 5
"""
MOLECULES = ("CH3OH", "CH3CH2OH", "NH3", "H2O", "CH4", "HCOOH", "CH3CHO", "C2H6")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running Slurm; skips where it is not installed or cannot run."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}); on Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as root only; run the tests of Slurm as root, as in a container")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    running = Cluster(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_job_is_left(cluster: Cluster) -> Iterator[None]:
    """A test that fails leaves the nodes to the next one."""
    yield
    cluster.cancel_all()


@pytest.fixture
def submit_folder(tmp_path: Path, repository: Path) -> Path:
    """Where jobs are submitted: as a checkout, with the shipped scripts and an environment."""
    (tmp_path / "slurm").symlink_to(repository / "slurm")
    return tmp_path


@pytest.fixture(scope="session")
def job_environment(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, str]:
    """What a job gets besides what Slurm gives it: this checkout, and names of nodes that mean this host."""
    return {
        "FOUNDATION_ENV": sys.prefix,
        "FOUNDATION_CACHE": str(tmp_path_factory.mktemp("jobs-cache")),
        "PYTHONPATH": str(repository),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Denoising and masked atoms on forty displaced molecules: five steps an epoch on two ranks."""
    folder = tmp_path_factory.mktemp("pretraining")
    random = np.random.default_rng(0)
    frames = []
    for index in range(44):
        atoms = molecule(MOLECULES[index % len(MOLECULES)])
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        frames.append(atoms)
    paths = {"train": folder / "train.xyz", "val": folder / "val.xyz"}
    ase.io.write(paths["train"], frames[:40], format="extxyz")
    ase.io.write(paths["val"], frames[40:], format="extxyz")
    recipe = folder / "pretraining.yaml"
    recipe.write_text(RECIPE.format(**paths), encoding="utf-8")
    return recipe
