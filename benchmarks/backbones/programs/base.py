"""What the harness asks of a program."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.backbones.clock import ClockSettings
from benchmarks.backbones.data import Split, cache_root
from benchmarks.backbones.rows import CurveRow
from foundation.errors import InputError

__all__ = ["REPOSITORY", "Command", "Program", "pairs", "process_environment", "rival_python", "worker"]

REPOSITORY = Path(__file__).resolve().parents[3]
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}


@dataclass(frozen=True)
class Command:
    """A process to start.

    Attributes:
        arguments: Program and its arguments.
        environment: Variables besides those of `process_environment`.
        import_paths: Folders that go onto PYTHONPATH besides the repository.
    """

    arguments: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    import_paths: Sequence[Path] = ()


class Program(ABC):
    """One program that can be trained; its model's settings are in the object."""

    @abstractmethod
    def training(self, row: CurveRow, *, split: Split, folder: Path, clock: ClockSettings) -> Command:
        """The program's own training; it goes on where a run in `folder` stopped.

        Args:
            row: What to train.
            split: The data.
            folder: For everything that the run writes; the working directory of the process.
            clock: When to keep weights.

        Raises:
            InputError: The program cannot do what the row says.
        """

    @abstractmethod
    def prediction(self, outputs: Mapping[Path, Path], *, split: Split, folder: Path) -> Command:
        """Energies (`[frames]`, eV) and forces (`[frames, atoms, 3]`, eV/Å) of the test frames into npz files.

        Args:
            outputs: Weights that the clock kept -> where their predictions go.
            split: The data.
            folder: Of the run.
        """

    @abstractmethod
    def measurement(self, *, mode: str) -> Command:
        """The worker that measures one case, without the arguments that every worker takes."""


def process_environment(command: Command, *, threads: int, allocator: str) -> dict[str, str]:
    """All variables of a process: threads, allocator, import paths."""
    variables = dict(os.environ)
    for name in (*KEEP_MEMORY, "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        variables.pop(name, None)
    variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    variables["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # compilation on the same cores and the same clock
    variables["PYTHONPATH"] = os.pathsep.join(str(path) for path in (REPOSITORY, *command.import_paths))
    # Our own program sets the allocator itself unless told otherwise; here the environment decides for all alike.
    variables["FOUNDATION_MALLOC"] = "system"
    if allocator == "keep":
        variables |= KEEP_MEMORY
    return variables | dict(command.environment)


def rival_python(rival: str) -> Path:
    """The interpreter of a rival's environment.

    Raises:
        InputError: It was not set up.
    """
    python = cache_root() / rival / "bin" / "python"
    if not python.is_file():
        raise InputError(
            f"{rival}: no environment at {python.parent.parent}; run: python -m benchmarks.backbones setup {rival}"
        )
    return python


def worker(name: str, *, python: Path | None = None) -> list[str | Path]:
    """The beginning of a command that runs a file of `workers/`."""
    return [python or Path(sys.executable), "-m", f"benchmarks.backbones.workers.{name}"]


def pairs(outputs: Mapping[Path, Path]) -> list[str]:
    """Weights and where their predictions go, as workers read them."""
    return [f"{weights}={output}" for weights, output in outputs.items()]
