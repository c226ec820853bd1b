"""`foundation report` on a job that runs, from another process, as somebody who watches it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foundation.cli import main

from .interrupting import QUIET, arrange_and_train

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_report_is_made_of_a_job_that_trains_and_does_not_disturb_it(own_recipe: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", tmp_path / "during.html"

    def look() -> None:
        command = [sys.executable, "-m", "foundation.cli", "report", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seen.write_text(done.stderr or (run / "report.html").read_text(encoding="utf-8"), encoding="utf-8")

    # 20 structures in batches of 4: 5 steps an epoch, so that this is amid the last of three.
    arrange_and_train(["train", str(own_recipe), "--out", str(run), *QUIET], look, at="batch", after=12, code=0)
    page = seen.read_text(encoding="utf-8")
    assert "Not finished: still running, or interrupted" in page
    assert "<svg" in page
    assert main(["report", str(run)]) == 0
    assert "Not finished" not in (run / "report.html").read_text(encoding="utf-8")
