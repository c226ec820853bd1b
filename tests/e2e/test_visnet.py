"""Another backbone behind the same recipes and commands: pretrained without labels, fine-tuned, evaluated, used."""

from __future__ import annotations

import json
from pathlib import Path

import ase.build
import numpy as np
import pytest

from foundation.checkpoint import load
from foundation.cli import main

BACKBONE = "model.backbone={kind: visnet, cutoff: 4.0, channels: 16, num_layers: 2, num_heads: 4, num_basis: 8}"
RECIPE = f"""
extends: [base, backbones/visnet]
data:
  gfn2: {{card: embedded/gfn2, split: {{by: random, train: 32, val: 8, test: 8, seed: 0}}}}
tasks:
  energy: {{property: energy, data: [gfn2], weight: 1}}
  forces: {{property: forces, data: [gfn2], weight: 10}}
  dipole: {{property: dipole, data: [gfn2], weight: 1}}
init:
  from:
    recipe: pretrain/quickstart
    overrides:
      - "{BACKBONE}"
      - "data.gfn2.split={{train: 12, val: 4, test: null}}"
      - "data.handedness.split={{train: 12, val: 4, test: null}}"
      - "trainer={{max_epochs: 1, enable_progress_bar: false}}"
      - "schedule.warmup_steps=0"
  keep: ["backbone.*"]
schedule: {{warmup_steps: 2}}
trainer: {{max_epochs: 2, check_val_every_n_epoch: 1, log_every_n_steps: 1, enable_progress_bar: false}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("visnet") / "visnet.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """Denoising and masked atoms first, then six steps of energies, forces and dipoles."""
    out = recipe.with_name("run")
    assert main(["train", str(recipe), "--out", str(out), BACKBONE]) == 0
    return out


def test_it_starts_from_what_was_learnt_without_labels(run: Path) -> None:
    init = json.loads((run / "summary.json").read_text(encoding="utf-8"))["init"]
    assert "backbone.layers.1.q_proj.weight" in init["loaded"]
    assert all(name.startswith(("heads.", "scaling.")) for name in init["new"])


def test_its_errors_and_report_are_written(run: Path) -> None:
    errors = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["test"]["gfn2"]
    assert {"energy", "forces", "dipole"} <= errors.keys()
    assert all(np.isfinite(figures["mae"]) for figures in errors.values())
    assert (run / "report.html").is_file()


def test_the_stored_model_predicts_what_the_run_would(run: Path) -> None:
    ethanol = ase.build.molecule("CH3CH2OH")
    model = load(run)
    assert model.config.backbone.kind == "visnet"
    predicted = model.predict([ethanol], charge=0, spin=1)
    assert isinstance(predicted, list)
    forces = predicted[0].values["forces"]
    assert np.abs(forces).max() > 1e-3
    assert np.abs(forces.sum(axis=0)).max() < 1e-4


def test_handedness_is_refused_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "quickstart", "--out", str(out), "model.backbone.kind=visnet"]) == 2
    message = capsys.readouterr().err
    assert "head 'pseudoscalar' for handedness: the backbone's features (64x0e+64x1o+64x2e) hold no pseudo" in message
    assert "Traceback" not in message
    assert not out.exists()
