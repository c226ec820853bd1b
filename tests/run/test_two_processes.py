"""Two processes as on two nodes: both see the run directory or neither trains; one that dies is missed at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

SECONDS = 240
"""Only there so that ranks that wait for each other fail the test instead of stopping it."""

Start = Callable[[int, Path], subprocess.Popen[str]]


@pytest.fixture
def start(write_recipe: Callable[..., Path], structure: Callable[..., Atoms], repository: Path) -> Start:
    """Starts one rank of two, as torchrun does."""
    frames = [structure("OH", seed=seed, energy=-1.0 - seed / 9) for seed in range(8)]
    recipe = write_recipe(train=frames[:6], val=frames[6:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start_rank(rank: int, out: Path) -> subprocess.Popen[str]:
        places = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
        meeting = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = ["train", str(recipe), "--out", str(out), "trainer.num_nodes=2", "trainer.max_epochs=100000"]
        return subprocess.Popen(
            [sys.executable, "-m", "foundation.cli", *words],
            env={**os.environ, **{name: str(value) for name, value in (places | meeting).items()}},
            cwd=repository,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_rank


def test_a_run_directory_that_one_node_does_not_see_is_refused(start: Start, tmp_path: Path) -> None:
    ranks = [start(0, tmp_path / "here"), start(1, tmp_path / "there")]
    said = [rank.communicate(timeout=SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert "other nodes do not see what the first process writes there" in said[0]
    assert "this node does not see" in said[1]


def test_a_rank_that_is_killed_is_missed_at_once(start: Start, tmp_path: Path) -> None:
    ranks = [start(rank, tmp_path / "run") for rank in (0, 1)]
    until = time.monotonic() + SECONDS
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert time.monotonic() < until, "no step was logged"
        time.sleep(0.1)
    os.kill(ranks[1].pid, signal.SIGKILL)
    said = ranks[0].communicate(timeout=60)[1]
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "rank 0 of 2 lost another one after step" in said
