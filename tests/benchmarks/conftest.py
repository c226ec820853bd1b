"""What tests of the bake-off share."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TINY = "model.backbone.channels=4 model.backbone.pseudo_channels=0 model.backbone.correlation=1 model.backbone.degree=1"
ROWS = """
models:
  tiny: {{program: foundation, recipe: tasks/rmd17_aspirin, epochs: 1, overrides: [{overrides}]}}
curves:
  tiny-4:
    model: tiny
    data: {{molecule: aspirin, train: 4, val: 2, test: 3}}
    batch_size: 2
    threads: 1
    mode: eager
    budget_cpu_s: {budget}
    first_point_cpu_s: 0.1
    growth: {growth}
    seed: 0
speed:
"""


@pytest.fixture(scope="session")
def tiny_rows() -> Callable[..., str]:
    """Makes a file of rows: the smallest model, one curve of it that ends after `budget` CPU seconds, and `speed`."""

    def make(*, budget: float, growth: float, speed: str) -> str:
        return ROWS.format(overrides=", ".join(TINY.split()), budget=budget, growth=growth) + speed

    return make


@pytest.fixture
def harness(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the harness."""
    monkeypatch.syspath_prepend(str(repository))
    return lambda name: importlib.import_module(f"benchmarks.backbones.{name}")
