"""A run that nothing interrupted, for others to be compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.cli import main

from .interrupting import QUIET


@pytest.fixture(scope="session")
def uninterrupted(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of that recipe, three epochs of five steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", str(own_recipe), "--out", str(out), *QUIET]) == 0
    return out
