"""A rank that stands still ends all ranks within the timeout, and is named with what it was doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from foundation.training.rank_watch import TIMEOUT_VARIABLE

PROGRAM = Path(__file__).with_name("stalled_rank.py")
SECONDS = 8


def test_the_rank_that_all_wait_for_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", TIMEOUT_VARIABLE: str(SECONDS)},
        check=False,
    )
    errors = {file.stem: file.read_text() for file in tmp_path.iterdir()}
    assert done.stdout.splitlines() == ["hangs [1, 1]", "freezes [1, -9]"], (done.stderr[-3000:], errors)
    for fault, text in errors.items():
        said = [line for line in text.splitlines() if line.startswith("error:")]
        assert any("rank 0 waits in step 3: gradients" in line for line in said), text
        # A process that was stopped may not have told the last thing that it did.
        known = "gives no sign of life" if fault == "freezes" else "is after step 2: loading the next batch"
        assert all("rank 1 (" in line and known in line for line in said), text
