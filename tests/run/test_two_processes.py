"""Two processes as on two nodes: both see the run directory or neither trains; a dead one is missed; torchrun."""

from __future__ import annotations

import csv
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from tests.processes import Program

SECONDS = 900
"""Only there so that ranks that wait for each other fail the test instead of stopping it."""

PROGRAM = Path(__file__).with_name("one_of_two_nodes.py")

Start = Callable[[int, Path], Program]


@pytest.fixture
def start(write_recipe: Callable[..., Path], structure: Callable[..., Atoms], tmp_path: Path) -> Start:
    """Starts one rank of two, as torchrun does."""
    frames = [structure("OH", seed=seed, energy=-1.0 - seed / 9) for seed in range(8)]
    recipe = write_recipe(train=frames[:6], val=frames[6:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start_rank(rank: int, out: Path) -> Program:
        places = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
        meeting = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = ["train", str(recipe), "--out", str(out), "trainer.num_nodes=2", "trainer.max_epochs=100000"]
        environment = {name: str(value) for name, value in (places | meeting).items()}
        return Program(PROGRAM, *words, folder=tmp_path / f"said {rank}", **environment)

    return start_rank


def test_a_run_directory_that_one_node_does_not_see_is_refused(start: Start, tmp_path: Path) -> None:
    ranks = [start(0, tmp_path / "here"), start(1, tmp_path / "there")]
    said = [rank.err for rank in ranks if rank.wait(seconds=SECONDS) == 2]
    assert len(said) == 2, [rank.err for rank in ranks]
    assert "other nodes do not see what the first process writes there" in said[0]
    assert "this node does not see" in said[1]


def test_a_rank_that_is_killed_is_missed_at_once(start: Start, tmp_path: Path) -> None:
    ranks = [start(rank, tmp_path / "run") for rank in (0, 1)]
    until = time.monotonic() + SECONDS
    while not steps_in(tmp_path / "run"):  # before, they may still be connecting: what ends that is the timeout
        assert time.monotonic() < until, "no step was logged"
        time.sleep(0.1)
    ranks[1].process.kill()
    assert ranks[0].wait(seconds=SECONDS) == 1
    assert "rank 0 of 2 lost another one after step" in ranks[0].err


Torchrun = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def torchrun(write_recipe: Callable[..., Path], structure: Callable[..., Atoms], repository: Path) -> Torchrun:
    """Starts the real command under the real torchrun, as a user types it."""
    frames = [structure("OH", seed=seed, energy=-1.0 - seed / 9) for seed in range(8)]
    recipe = write_recipe(train=frames[:6], val=frames[6:])

    def start_processes(count: int, out: Path, *words: str) -> subprocess.Popen[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [*launcher, "-m", "foundation.cli", "train", str(recipe), "--out", str(out), *words]
        return subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)

    return start_processes


def steps_in(run: Path) -> list[int]:
    """Logged steps of training."""
    if not (run / "metrics.csv").exists():
        return []
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.mark.slow
def test_torchrun_trains_stops_when_told_to_and_goes_on(torchrun: Torchrun, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = torchrun(2, out, "trainer.devices=2", "trainer.max_epochs=100000")
    until = time.monotonic() + SECONDS
    while len(steps_in(out)) < 5:
        assert time.monotonic() < until, "no step was logged"
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)  # the launcher hands it on
    said = first.communicate(timeout=SECONDS)[1]
    assert said.count("interrupted by SIGTERM after step") == 2, said
    done = len(steps_in(out))
    second = torchrun(2, out, "trainer.devices=2", f"trainer.max_epochs={done // 2 + 2}", "--resume")
    said = second.communicate(timeout=SECONDS)[1]
    assert second.returncode == 0, said
    assert "going on from" in said
    found = steps_in(out)
    assert found == list(range(len(found))), "every step once, none left out"
    assert len(found) > done


@pytest.mark.slow
def test_torchrun_with_other_processes_than_the_recipe_wants_is_refused(torchrun: Torchrun, tmp_path: Path) -> None:
    said = torchrun(1, tmp_path / "run", "trainer.devices=2").communicate(timeout=SECONDS)[1]
    assert "torchrun: it started 1 processes, 1 on this node; the recipe wants 2 devices" in said
    assert "exitcode  : 2" in said, said
    assert not (tmp_path / "run").exists()
