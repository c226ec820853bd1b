"""`foundation slurm submit` prints what it would submit, once recipe and options are in order."""

from __future__ import annotations

import pytest

from foundation.cli import main


def test_the_command_is_printed_and_nothing_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["quickstart", "--nodes", "2", "--gpus", "4", "--time", "1-00:00:00", "--sbatch=--qos=long", "seed=1"]
    assert main(["slurm", "submit", *given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    options = "sbatch --nodes=2 --ntasks-per-node=4 --cpus-per-task=8 --gpus-per-node=4 --time=1-00:00:00 --qos=long"
    assert options in printed
    assert printed.endswith("train.sbatch quickstart --out runs/quickstart seed=1 trainer.accelerator=gpu\n")


def test_mistakes_are_found_before_submission(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "submit", "quickstart", "--nodes", "0", "--gpus", "1", "--time", "soon", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "--nodes: got 0; allowed: 1 or more" in said
    assert "--time: got 'soon'; allowed: minutes" in said
    assert (
        main(["slurm", "submit", "quickstart", "--gpus", "1", "--time", "10", "trainer.max_epoch=1", "--dry-run"]) == 2
    )
    assert "nearest: 'max_epochs'" in capsys.readouterr().err
