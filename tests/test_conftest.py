"""The rule for tests on real data: absent, they skip and say why; present on CI, a skip is a failure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEST_ON_DATA = """
import pytest

def test_that_uses_the_fixture(shared_data):
    assert (shared_data / "README.md").is_file()

def test_that_skips_by_itself():
    pytest.skip("no data here")
"""


def outcomes(folder: Path, *, data: Path, ci: str) -> dict[str, int]:
    """Run both tests and count what became of them."""
    environment = os.environ | {"FOUNDATION_DATA": str(data), "CI": ci, "FOUNDATION_CHECK_SHAPES": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    summary = done.stdout.splitlines()[-1]
    return {outcome: int(number) for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_on_data.py").write_text(TEST_ON_DATA)
    return tmp_path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("real data\n")
    return tmp_path / "data"


def test_on_ci_a_skip_for_want_of_data_fails_where_the_data_are(folder: Path, data: Path) -> None:
    assert outcomes(folder, data=data, ci="true") == {"passed": 1, "failed": 1}


def test_elsewhere_it_stays_a_skip(folder: Path, data: Path) -> None:
    assert outcomes(folder, data=data, ci="") == {"passed": 1, "skipped": 1}


def test_without_the_data_both_skip_even_on_ci(folder: Path, tmp_path: Path) -> None:
    assert outcomes(folder, data=tmp_path / "absent", ci="true") == {"skipped": 2}
