"""What the command line says: right advice, short lists, one thread and two threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.data.card import card_names, load_card
from foundation.errors import InterruptionError
from foundation.run import training
from foundation.run.interruption import Interruption
from foundation.wording import counted


def test_one_is_singular() -> None:
    assert [counted(number, "thread") for number in (0, 1, 2)] == ["0 threads", "1 thread", "2 threads"]
    assert [counted(number, "batch", "batches") for number in (1, 2)] == ["1 batch", "2 batches"]


@pytest.mark.parametrize("command", ["train quickstart --check", "slurm submit quickstart --gpus=1 --time=1 --dry-run"])
def test_an_option_that_should_be_an_override(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--lr", "3"]) == 2
    said = capsys.readouterr().err
    assert "overrides are KEY=VALUE, as in optimizer.learning_rate=0.001" in said
    assert "nearest" not in said


def test_an_option_of_a_command_without_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "model", "x.smi", "--out", "y.csv", "--lr", "3"]) == 2
    assert "KEY=VALUE" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["recipes/quickstart.yaml", "elsewhere/recipes/quickstart", "quickstrat.yaml"])
def test_a_recipe_named_as_in_a_checkout_is_found_near(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--check"]) == 2
    assert f"no file '{name}'; nearest shipped: 'quickstart'" in capsys.readouterr().err


def test_a_signal_before_anything_is_written_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "prepare_data", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", "quickstart", "--check"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted by SIGTERM outside of training"
    assert not any(tmp_path.iterdir())
    interruption = Interruption()
    interruption.has_begun = True
    with interruption, pytest.raises(InterruptionError) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.goes_on


@pytest.mark.parametrize("action", ["show", "check"])
def test_data_are_no_card(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "frames").touch()
    for name in ("my.xyz", "other.extxyz.gz", str(tmp_path / "frames")):
        assert main(["data", action, name]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {name} is data, not a card; a card ends in .yaml")
        assert len(said.splitlines()) == 1
        assert "rmd17" not in said


def test_the_list_of_cards_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = card_names()
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names)
    assert max(map(len, lines)) == 60
    assert any(line.endswith("…") for line in lines)
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(["data", "list"]) == 0
    aspirin = load_card("rmd17/aspirin")
    assert f"rmd17/aspirin {aspirin.num_structures} {' '.join(aspirin.properties or {})}" in {
        " ".join(line.split()) for line in capsys.readouterr().out.splitlines()
    }


def test_a_missing_file_of_a_card_says_how_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDATION_DATA", str(tmp_path))
    assert main(["data", "check", "rmd17/aspirin"]) == 2
    said = capsys.readouterr().err
    for download in load_card("rmd17/aspirin").urls:
        assert f"  {download.url} ({download.note})\n" in said


def test_the_package_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foundation", "data", "show", "my.xyz"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: my.xyz is data")


def test_help_names_what_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("predict", ("traj", "(or xyz)")), ("evaluate", ("states no split", "`all`"))):
        assert main([command, "--help"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert all(word in printed for word in words)


SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_benchmarks_keeps_its_lines(name: str, repository: Path) -> None:
    text = (repository / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    assert "ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)" in text
