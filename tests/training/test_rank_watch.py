"""A rank that stands still ends all ranks within the timeout, and is named with what it was doing."""

from __future__ import annotations

from pathlib import Path

from foundation.training.rank_watch import TIMEOUT_VARIABLE
from tests.processes import Program

PROGRAM = Path(__file__).with_name("stalled_rank.py")
SECONDS = 8


def test_the_rank_that_all_wait_for_is_named(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    program = Program(PROGRAM, str(results), folder=tmp_path, **{TIMEOUT_VARIABLE: str(SECONDS)})
    program.wait(seconds=240)
    errors = {file.stem: file.read_text() for file in results.iterdir()}
    assert program.out.splitlines() == ["hangs [1, 1]", "freezes [1, -9]"], (program.err[-3000:], errors)
    for fault, text in errors.items():
        said = [line for line in text.splitlines() if line.startswith("error:")]
        assert any("rank 0 waits in step 3: gradients" in line for line in said), text
        # A process that was stopped may not have told the last thing that it did.
        known = "gives no sign of life" if fault == "freezes" else "is after step 2: loading the next batch"
        assert all("rank 1 (" in line and known in line for line in said), text
