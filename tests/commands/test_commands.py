"""Commands that do not train: the hub of local directories, cards, doctor, schema files."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from foundation.checkpoint import CardInfo, load, save_model
from foundation.cli import main
from foundation.commands.hub import PRETRAINING, RECIPE_FILE
from foundation.config import parse_yaml
from foundation.run import directory, training


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model."""
    path = tmp_path_factory.mktemp("stored") / "model"
    save_model(make_model({"energy": {"kind": "energy"}}), path, card_info=CardInfo(title="test"))
    return path


def test_a_model_is_pushed_listed_and_pulled(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "shelf" / "mine"
    assert main(["hub", "push", str(model), str(target)]) == 0
    assert main(["hub", "list", str(tmp_path / "shelf")]) == 0
    assert str(target) in capsys.readouterr().out
    assert main(["hub", "pull", str(target)]) == 0
    assert Path(capsys.readouterr().out.strip()) == target
    assert load(target).config == load(model).config
    assert main(["hub", "push", str(model), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_start_of_a_run_is_listed_as_such(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("run/model", "run/pretrain/model", "other/pretrain/model"):
        shutil.copytree(model, tmp_path / folder)
    (tmp_path / "run" / RECIPE_FILE).touch()
    assert main(["hub", "list", str(tmp_path)]) == 0
    run, other = tmp_path / "run", tmp_path / "other"
    lines = [f"{other}/{PRETRAINING}", f"{run}", f"{run}/{PRETRAINING}  (where {run} started from)"]
    assert capsys.readouterr().out.splitlines() == lines
    assert (training.PRETRAINING, directory.RECIPE_FILE) == (PRETRAINING, RECIPE_FILE)


def test_pushing_to_the_hub_says_what_is_allowed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "push", str(model), "org/name@main"]) == 2
    assert "allowed for now: a local directory" in capsys.readouterr().err


def test_a_card_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "embedded/gfn2"]) == 0
    shown = parse_yaml(capsys.readouterr().out, where="shown")
    assert shown["level_of_theory"] == "GFN2-xTB"
    assert shown["properties"]["forces"] == {"key": "forces", "unit": "eV/Å"}


def test_doctor_finds_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["generate"]):
        assert f"package      {requirement.split('>=')[0]} " in printed
    assert "package      pytest" not in printed, "what only developers need"
    assert "All that is needed is here." in printed


def test_a_file_without_splits_is_evaluated_whole_and_called_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, card = tmp_path / "new.xyz", tmp_path / "new.yaml"
    data.write_text("".join(f"2\nenergy=-{i}\nH 0 0 0\nH 0 0 0.{7 + i}\n" for i in (0, 1)), encoding="utf-8")
    facts = "level_of_theory: GFN2-xTB\ncharge: 0\nspin: 1\nproperties: {energy: {key: energy, unit: eV}}\n"
    card.write_text(facts, encoding="utf-8")
    assert main(["evaluate", str(model), str(data), "--card", str(card)]) == 0
    assert capsys.readouterr().out.split()[:3] == ["all", "new", "energy"]
    card.write_text(facts + "split: {train: 1, test: 1, seed: 0}\n", encoding="utf-8")
    assert main(["evaluate", str(model), str(data), "--card", str(card)]) == 0
    assert capsys.readouterr().out.split()[:3] == ["test", "new", "energy"]


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "evaluate", "predict", "data", "hub", "export", "report", "cost", "doctor", "schema"):
        assert main([command, "--help"]) == 0
        assert f"usage: foundation {command}" in capsys.readouterr().out


def test_checking_a_recipe_trains_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    assert main(["train", "tasks/rmd17_ethanol", "--check", "data.ethanol.split={train: 20, val: 5, test: 5}"]) == 0
    assert "nothing was trained" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
