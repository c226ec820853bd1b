"""A user's own file with an inline card trains, evaluates and predicts, on the real command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

import foundation
from foundation.cli import main
from foundation.recipe import load_recipe
from foundation.run.plan import make_plan, prepare_data


@pytest.fixture(scope="module")
def run(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    assert main(["train", str(own_recipe), "--out", str(out), "trainer.enable_progress_bar=false"]) == 0
    return out


def test_a_run_directory_holds_what_it_promises(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"recipe.yaml", "metrics.csv", "checkpoints", "model", "report.html", "summary.json"} <= names
    assert {path.name for path in (run / "model").iterdir()} == {
        "model.safetensors",
        "raw.safetensors",
        "config.json",
        "README.md",
    }
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [4, 9, 14]
    assert all(float(row["train/loss"]) > 0 for row in rows if row["train/loss"])
    assert float(rows[-1]["val/mine/forces_mae_eV_per_A"]) > 0


def test_evaluating_the_runs_own_data_gives_the_runs_own_errors(run: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run), "mine", "--json", str(tmp_path / "errors.json")]) == 0
    found = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))
    stored = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["test"]
    assert found["mine"].keys() == {"energy", "energy_per_atom", "forces"}
    for name, figures in found["mine"].items():
        assert figures["count"] == stored["mine"][name]["count"]
        assert figures["mae"] == pytest.approx(stored["mine"][name]["mae"], rel=1e-5)
    assert found["mine"]["forces"]["unit"] == "eV/Å"


def test_evaluating_a_file_with_an_inline_card(run: Path, own_file: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text(
        "level_of_theory: EMT\ncharge: 0\nspin: 1\nproperties: {energy: {key: energy, unit: eV}}\n", encoding="utf-8"
    )
    out = tmp_path / "errors.json"
    assert main(["evaluate", str(run), str(own_file), "--card", str(card), "--split", "all", "--json", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["my"]["energy"]["count"] == 30


def test_predicting_a_file(run: Path, own_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "predicted.xyz"
    assert main(["predict", str(run), str(own_file), "--out", str(out), "--charge", "0", "--spin", "1"]) == 0
    frames = ase.io.read(out, index=":")
    assert len(frames) == 30
    assert np.isfinite(frames[0].get_potential_energy())
    assert frames[0].get_forces().shape == frames[0].positions.shape


def test_training_again_into_the_same_directory_is_refused(run: Path, own_recipe: Path, capsys) -> None:
    before = (run / "summary.json").read_bytes()
    assert main(["train", str(own_recipe), "--out", str(run)]) == 2
    assert "exists; allowed: --resume" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before


def test_resuming_with_another_recipe_is_refused(run: Path, own_recipe: Path, capsys) -> None:
    arguments = ["train", str(own_recipe), "--out", str(run), "--resume"]
    assert main([*arguments, "optimizer.learning_rate=0.02"]) == 2
    assert "optimizer.learning_rate: this run has 0.01, the recipe says 0.02" in capsys.readouterr().err


def test_a_run_starts_from_another_and_says_what_it_took(run: Path, own_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    arguments = [f"init={{from: {run}}}", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "report=false"]
    assert main(["train", str(own_recipe), "--out", str(out), *arguments]) == 0
    summary, first = (json.loads((one / "summary.json").read_text(encoding="utf-8")) for one in (out, run))
    assert summary["training"] == {"steps": 5, "planned_steps": 5, "stopped_by": None}
    assert summary["reference_energies"]["EMT"]["values"] == first["reference_energies"]["EMT"]["values"]
    assert "of the model that this one started from" in summary["reference_energies"]["EMT"]["how"]
    assert summary["scales"] == first["scales"]
    init = summary["init"]
    assert init["loaded"]
    assert not init["new"]
    assert init["parity"]["forces"]["difference"] < 1e-5


def test_an_element_that_the_source_never_saw_gets_a_reference_beside_the_others(
    run: Path, own_file: Path, own_recipe: Path, tmp_path: Path
) -> None:
    frames = ase.io.read(own_file, ":")
    for atoms in frames:
        atoms.calc.results["energy"] -= 10_000.0
        atoms.numbers[atoms.numbers == 8] = 16
    ase.io.write(tmp_path / "thiols.xyz", frames, format="extxyz")
    recipe = load_recipe(own_recipe, overrides=[f"data.mine.source={tmp_path / 'thiols.xyz'}", f"init={{from: {run}}}"])
    plan = make_plan(recipe, prepare_data(recipe), start=str(run))
    ours, theirs = (model.scaling.reference_energies[0] for model in (plan.model, foundation.load(run)))
    assert torch.equal(ours[[1, 6]], theirs[[1, 6]])
    assert abs(float(ours[16] - theirs[8]) + 10_000.0) < 1.0
    assert "S fitted beside these" in plan.model.scaling.provenance["EMT"]
