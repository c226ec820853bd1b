"""Two processes compute what one does on the same global batch, whichever rank holds which label."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")

PROGRAM = Path(__file__).with_name("two_ranks.py")
TIMEOUT_SECONDS = 240
"""Only there so that ranks that wait for each other fail the test instead of stopping it; it takes some ten seconds."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients and metrics of one process (this one), and of both of two."""
    folder = tmp_path_factory.mktemp("ranks")
    runpy.run_path(str(PROGRAM))["main"](folder, 1)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), "2"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "sync_dist" not in done.stderr
    return {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


def test_the_gradient_does_not_depend_on_how_a_batch_is_spread(results: dict[str, dict[str, torch.Tensor]]) -> None:
    alone, first, second = (results[name] for name in ("1_0", "2_0", "2_1"))
    gradients = [name for name in alone if name.startswith("gradient")]
    assert any("handedness" in name for name in gradients)
    # The dipole's head is used by no rank and stays without gradient, so that no optimizer moves it.
    assert not any("charges" in name for name in gradients)
    largest = max(float(alone[name].abs().max()) for name in gradients)
    for other in (first, second):
        assert set(other) == set(alone)
        for name in gradients:
            torch.testing.assert_close(other[name], alone[name], rtol=1e-4, atol=1e-6 * largest)


def test_metrics_and_losses_do_not_depend_on_it_either(results: dict[str, dict[str, torch.Tensor]]) -> None:
    alone, first, second = (results[name] for name in ("1_0", "2_0", "2_1"))
    metrics = [name for name in alone if name.startswith(("train/", "val/"))]
    assert {"val/set/handedness_auc", "val/set/forces_mae_eV_per_A", "val/loss", "train/loss"} <= set(metrics)
    for name in metrics:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-7)
