"""The clock that every program trains under: seconds and steps of training, checkpoints taken off the clock.

Runs inside each program's own environment, so it needs the standard library only. The clock starts at the first
training step (imports and reading of data are start-up and kept apart), runs through validation, logging and
compilation, and stands still while this harness copies weights. It is kept in the program's own resume checkpoint and
so carries on after a restart.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

SETTINGS_VARIABLE = "BAKEOFF_CLOCK"
"""Environment variable that hands the settings to the training process, as JSON."""


@dataclass(frozen=True)
class ClockSettings:
    """When to keep weights and when to stop.

    Attributes:
        folder: Where weights and their times go.
        budget_cpu_s: CPU seconds of training.
        first_point_cpu_s: When the first weights are kept, CPU seconds.
        growth: Each next time is this many times the last.
        threads: CPU threads of the run.
    """

    folder: str
    budget_cpu_s: float
    first_point_cpu_s: float
    growth: float
    threads: int

    @classmethod
    def from_environment(cls) -> ClockSettings:
        """Read what the harness handed over.

        Raises:
            KeyError: The process was not started by the harness.
        """
        return cls(**json.loads(os.environ[SETTINGS_VARIABLE]))

    def to_environment(self) -> dict[str, str]:
        """The environment variable that `from_environment` reads."""
        return {SETTINGS_VARIABLE: json.dumps(asdict(self))}


class TrainingClock:
    """Wall and CPU seconds and optimizer steps since the first step, across restarts.

    Args:
        settings: When to keep weights and when to stop.

    Attributes:
        steps: Optimizer steps done.
    """

    def __init__(self, settings: ClockSettings) -> None:
        assert settings.first_point_cpu_s > 0, "the next point is a multiple of the first"
        assert settings.growth > 1, "the times of points have to grow"
        self.settings = settings
        self.steps = 0
        self._wall_before = self._cpu_before = 0.0
        self._started: tuple[float, float] | None = None
        self._next_point = settings.first_point_cpu_s
        self._last_point_step = -1
        self.startup_s = 0.0

    @property
    def wall_s(self) -> float:
        """Wall seconds of training until now."""
        return self._wall_before + (0.0 if self._started is None else time.monotonic() - self._started[0])

    @property
    def cpu_s(self) -> float:
        """CPU seconds of training until now, all threads of this process and its finished children (compilers)."""
        return self._cpu_before + (0.0 if self._started is None else _cpu_seconds() - self._started[1])

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.cpu_s >= self.settings.budget_cpu_s

    def start(self) -> None:
        """Begin to count; weights of a future that a restart undid are dropped."""
        if self._started is not None:
            return
        self.startup_s = _seconds_since_process_start()
        drop_points_after(Path(self.settings.folder), self.steps)
        self._started = (time.monotonic(), _cpu_seconds())

    def stop(self) -> None:
        """Hold the clock for good."""
        self._wall_before, self._cpu_before, self._started = self.wall_s, self.cpu_s, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do something off the clock."""
        self._wall_before, self._cpu_before, self._started = self.wall_s, self.cpu_s, None
        try:
            yield
        finally:
            self._started = (time.monotonic(), _cpu_seconds())

    def keep_if_due(self, save: Callable[[Path], None], *, suffix: str, last: bool = False) -> None:
        """Keep the weights of now if their time has come.

        Args:
            save: Writes them to a path.
            suffix: Of the file, with its dot.
            last: Keep them in any case, unless that was done at this step.
        """
        if (self.cpu_s < self._next_point and not last) or self.steps in {0, self._last_point_step}:
            return
        while self._next_point <= self.cpu_s:
            self._next_point *= self.settings.growth
        self._last_point_step = self.steps
        with self.paused():
            folder = Path(self.settings.folder)
            folder.mkdir(parents=True, exist_ok=True)
            weights = folder / f"{self.steps:09d}{suffix}"
            save(weights)
            point = {
                "steps": self.steps,
                "wall_s": round(self.wall_s, 3),
                "cpu_s": round(self.cpu_s, 3),
                "startup_s": round(self.startup_s, 3),
                "weights": weights.name,
            }
            temporary = weights.with_suffix(".tmp")
            temporary.write_text(json.dumps(point) + "\n", encoding="utf-8")
            temporary.replace(weights.with_suffix(".json"))

    def state(self) -> dict[str, float | int]:
        """What the program's resume checkpoint keeps."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "steps": self.steps,
            "next_point": self._next_point,
            "last_point_step": self._last_point_step,
        }

    def restore(self, state: Mapping[str, float | int]) -> None:
        """Go on where the checkpoint left off."""
        self._wall_before, self._cpu_before = float(state["wall_s"]), float(state["cpu_s"])
        self.steps, self._last_point_step = int(state["steps"]), int(state["last_point_step"])
        self._next_point = float(state["next_point"])


def drop_points_after(folder: Path, steps: int) -> None:
    """Remove weights that were kept after so many steps, with their times and errors."""
    for file in folder.glob("*"):
        if file.stem.split(".")[0].isdecimal() and int(file.stem.split(".")[0]) > steps:
            file.unlink()


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _seconds_since_process_start() -> float:
    """Wall seconds since this process was started (Linux; elsewhere its CPU seconds)."""
    try:
        after_boot = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return time.process_time()
    return uptime - after_boot / os.sysconf("SC_CLK_TCK")
