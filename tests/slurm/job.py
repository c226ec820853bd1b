"""A training job on the Slurm of these tests, and what can befall it."""

from __future__ import annotations

import csv
import math
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.same_run import logged

from .cluster import Cluster, wait_until

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
OVER = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY")
SAVED = "interrupted by SIGUSR1 after step"
WARNING_MINUTES = 3
"""Of `--signal` in the shipped script."""


class Job:
    """A training job of two tasks. Nothing here depends on how fast the machine is.

    Attributes:
        number: Slurm's.
        run: Its run directory, beside the log.
    """

    def __init__(self, cluster: Cluster, number: str, run: Path) -> None:
        self.cluster, self.number, self.run = cluster, number, run

    @property
    def state(self) -> str:
        """RUNNING, FAILED, …"""
        return self.cluster.state(self.number)

    @property
    def processes(self) -> list[int]:
        """Of its tasks, as far as they have started."""
        return self.cluster.task_processes(self.number)

    def log(self) -> str:
        """All that it has said so far, in all its starts."""
        path = self.run.parent / f"slurm-{self.number}.out"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def steps(self) -> int:
        """Steps in metrics.csv."""
        try:
            return len(logged(self.run))
        except (FileNotFoundError, csv.Error):
            return 0

    def wait_for_step(self, step: int) -> None:
        """Until so many steps are logged."""
        self._wait_while_running(lambda: self.steps() > step, what=f"step {step}")

    def wait_for_more(self, steps: int) -> None:
        """Until it has trained on, beyond what was logged so far."""
        self.wait_for_step(self.steps() + steps)

    def wait_for_start(self, *, seconds: float, step: int) -> None:
        """Until so long after a task has started, or a step is logged, if that comes first."""
        self._wait_while_running(lambda: bool(self.processes), what="a task")
        until = time.monotonic() + seconds
        self._wait_while_running(lambda: time.monotonic() > until or self.steps() > step, what="a moment")

    def wait(self) -> None:
        """Until it is over."""
        wait_until(lambda: self.state in OVER, what=self.log)

    def wait_for_restart(self, restarts: int) -> None:
        """Until it runs again.

        Args:
            restarts: Those before.
        """
        runs = lambda: self.cluster.restarts(self.number) > restarts and self.state == "RUNNING"  # noqa: E731
        wait_until(lambda: runs() or self.state in OVER, what=lambda: f"restart {restarts + 1}\n{self.log()}")
        assert runs(), f"{self.state}\n{self.log()}"

    @contextmanager
    def standing_still(self) -> Iterator[list[int]]:
        """Stop the tasks for a while, so that they have steps left however fast they are."""
        tasks = self.processes
        assert len(tasks) == 2, f"{self.state}\n{self.log()}"
        for task in tasks:
            os.kill(task, signal.SIGSTOP)
        try:
            yield tasks
        finally:
            for task in tasks:
                with suppress(ProcessLookupError):
                    os.kill(task, signal.SIGCONT)

    def kill_a_task(self) -> None:
        """As in a power cut or an exhausted memory: SIGKILL to one task; then what an administrator does."""
        restarts = self.cluster.restarts(self.number)
        os.kill(random.choice(self.processes), signal.SIGKILL)
        wait_until(lambda: self.state in OVER, what=self.log)
        assert self.state == "FAILED", f"a crash is not requeued by itself: {self.state}\n{self.log()}"
        self.cluster.run("scontrol", "requeue", self.number)
        self.wait_for_restart(restarts)

    def preempt(self) -> None:
        """Submit what is more urgent and needs both nodes. Slurm itself lets the tasks go on, to end."""
        restarts = self.cluster.restarts(self.number)
        asked = ("--partition=urgent", *TWO_NODES, "--exclusive", "--output=/dev/null", "--wrap=true")
        with self.standing_still():
            urgent = self.cluster.submit(*asked, folder=self.run.parent)
            wait_until(lambda: self.cluster.state(urgent) == "COMPLETED", what=lambda: f"the urgent job\n{self.log()}")
        self.wait_for_restart(restarts)

    def reach_time_limit(self) -> None:
        """Let Slurm's own clock reach the warning before the time limit, at which the job has to end."""
        restarts, saved = self.cluster.restarts(self.number), self.log().count(SAVED)
        with self.standing_still() as tasks:
            minutes = math.ceil(self.cluster.seconds(self.number) / 60) + WARNING_MINUTES
            self._limit(minutes)
            wait_until(
                lambda: all(is_told(task, signal.SIGUSR1) for task in tasks) or self._is_back_or_over(restarts),
                what=lambda: f"the warning of Slurm\n{self.log()}",
            )
        wait_until(
            lambda: self._is_back_or_over(restarts),
            what=lambda: f"the end before the limit of {minutes} minutes\n{self.log()}",
        )
        assert self.state not in OVER, self.log()
        assert self.log().count(SAVED) == saved + 2, f"both tasks save\n{self.log()}"
        self._limit(24 * 60)  # of the next start
        self.wait_for_restart(restarts)

    def _is_back_or_over(self, restarts: int) -> bool:
        return self.cluster.restarts(self.number) > restarts or self.state in OVER

    def _limit(self, minutes: int) -> None:
        self.cluster.run("scontrol", "update", f"JobId={self.number}", f"TimeLimit={minutes}")

    def _wait_while_running(self, is_so: Callable[[], bool], *, what: str) -> None:
        wait_until(lambda: is_so() or self.state in OVER, what=lambda: f"{what}\n{self.log()}", period=0.02)
        assert self.state == "RUNNING", f"{what}: {self.state}\n{self.log()}"


def is_told(process: int, number: signal.Signals) -> bool:
    """Whether a signal has been sent to a process that stands still; or it has ended, as Slurm let it go on."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", status, flags=re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
