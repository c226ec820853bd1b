"""The package as a user gets it: quick to start, its folders found from a checkout and from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import foundation
from foundation.data.readers import Record
from foundation.data.store import Store
from foundation.resources import data_cards_dir, recipes_dir, slurm_dir


def run_python(code: str, *, path: Path | None = None, cwd: Path) -> str:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_command_line_module_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, foundation.cli; print(*sorted({'torch', 'lightning', 'rdkit', 'datasets'} & sys.modules.keys()))"
    )
    assert run_python(code, cwd=tmp_path) == ""


def test_a_process_that_opens_a_store_stays_small(tmp_path: Path) -> None:
    """Without the libraries that read and write data, which take more memory than any store that is opened."""
    structure = {"positions": np.zeros((1, 3)), "atomic_numbers": np.array([8]), "cell": None, "pbc": (False,) * 3}
    labels = {"total_charge": 0.0, "spin_multiplicity": 3, "targets": {"energy": np.array(-2041.0)}}
    record = Record(**structure, **labels, group="", split=None, smiles=None, where="atom")
    Store.create(tmp_path / "store", [record], level_of_theory="PBE", metadata={})
    code = (
        "import sys; from pathlib import Path; from foundation.data.store import Store; store = Store.open('store'); "
        "status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines()); "
        "assert store.tensors(0)['atomic_numbers'].tolist() == [8]; "
        "heavy = {'torch_geometric', 'lightning', 'rdkit', 'datasets', 'scipy', 'ase', 'vesin'}; "
        "print(int(status['VmRSS'].split()[0]) * 1024, *sorted(heavy & sys.modules.keys()))"
    )
    resident, *imported = run_python(code, cwd=tmp_path).split()
    assert not imported
    assert int(resident) < 300_000_000


def test_lazy_names_are_the_modules_own() -> None:
    from foundation.checkpoint import load
    from foundation.model import FoundationModel

    assert foundation.load is load
    assert foundation.FoundationModel is FoundationModel
    assert {"load", "FoundationModel", "__version__"} <= set(dir(foundation))


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; it has .*load"):
        foundation.__getattr__("laod")


def test_a_checkout_finds_its_own_recipes_and_cards(repository: Path) -> None:
    assert recipes_dir() == repository / "recipes"
    assert data_cards_dir() == repository / "data_cards"
    assert (recipes_dir() / "base.yaml").is_file()


def test_a_wheel_carries_recipes_cards_and_embedded_data(repository: Path, tmp_path: Path) -> None:
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    for name in ("foundation", "recipes", "data_cards", "slurm"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    subprocess.run([sys.executable, *build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)

    code = "from foundation.resources import *; print(recipes_dir()); print(data_cards_dir()); print(slurm_dir())"
    recipes, cards, scripts = (Path(line) for line in run_python(code, path=unpacked, cwd=tmp_path).splitlines())
    for shipped, original in ((recipes, recipes_dir()), (cards, data_cards_dir()), (scripts, slurm_dir())):
        assert shipped.is_relative_to(unpacked)
        assert files_in(shipped) == files_in(original)
    assert files_in(unpacked / "foundation") >= files_in(repository / "foundation")


def files_in(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}
