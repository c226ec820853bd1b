"""Ratios of speeds on a machine whose own speed changes: processes that take turns, one waiting while another works."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.backbones.data import speed_structures
from benchmarks.backbones.programs.base import REPOSITORY, process_environment
from benchmarks.backbones.programs.registry import program_of
from benchmarks.backbones.results import provenance, write_results
from benchmarks.backbones.rows import Case, Rows, SpeedRow
from benchmarks.backbones.speed import failure
from benchmarks.backbones.workers.measure import TURN
from foundation.errors import InputError
from foundation.wording import counted

__all__ = ["compared", "run_turns"]

WARM_UP_TURNS = 2


@dataclass
class _Runner:
    """One row's process, and the seconds of its steps, turn by turn."""

    name: str
    row: SpeedRow
    process: subprocess.Popen[str]
    errors: IO[str]
    turns: list[list[float]] = field(default_factory=list)

    def answer(self) -> list[float]:
        """Wait for the seconds of a turn's steps; what libraries print is passed over.

        Raises:
            InputError: The process ended.
        """
        if self.process.stdout is not None:
            for line in self.process.stdout:
                if line.startswith(TURN):
                    return json.loads(line.removeprefix(TURN))
        code = self.process.wait()
        self.errors.seek(0)
        raise InputError(f"{self.name}: {failure(self.errors.read(), code, self.row.memory_limit_gib)}")

    def turn(self) -> list[float]:
        """Let it work once."""
        if self.process.stdin is None:
            raise RuntimeError("a worker takes its turns from its standard input")
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it ended
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.answer()


def run_turns(names: Sequence[str], rows: Rows, *, case: Case, threads: int, rounds: int, results: Path) -> Path:
    """Measure one case of several rows in turns, and write times and ratios to the first row.

    Args:
        names: Of speed rows; the first is what the others are compared with.
        rows: All of them.
        case: Of the speed benchmark.
        threads: CPU threads of every row.
        rounds: How many turns each gets.
        results: Where the JSON lines go.

    Returns:
        The file of results.

    Raises:
        InputError: No such row, one named twice, its program is not set up, or its process ended.
    """
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"turns: got '{twice[0]}' twice; allowed: each row once")
    with contextlib.ExitStack() as stack:
        runners = [
            stack.enter_context(_running(name, rows.speed_row(name), rows, case=case, threads=threads))
            for name in names
        ]
        for number in range(-WARM_UP_TURNS, rounds):
            for runner in runners:
                seconds = runner.turn()
                if number >= 0:
                    runner.turns.append(seconds)
        measured = compared({runner.name: runner.turns for runner in runners})
    lines = [
        {"name": name, "case": case, "threads": threads, "rounds": rounds, **found, **provenance()}
        for name, found in measured.items()
    ]
    for line in lines:
        print(_summary(line, names[0]), file=sys.stderr, flush=True)
    return write_results(results, kind="turns", row=f"{names[0]}_{case}", lines=lines)


def compared(turns: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Times, and how many times as fast as the first each is: quartiles of the ratios within rounds.

    Args:
        turns: Name -> seconds of the steps, turn by turn; the first is what the others are compared with.
    """
    medians = {name: [statistics.median(turn) for turn in found] for name, found in turns.items()}
    reference = next(iter(medians.values()))
    found = {}
    for name, own in medians.items():
        ratios = [theirs / mine for theirs, mine in zip(reference, own, strict=True)]
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = {
            "fastest_ms": 1e3 * min(min(turn) for turn in turns[name]),
            "median_ms": 1e3 * statistics.median(own),
            "times_as_fast": median,
            "lower_quartile": lower,
            "upper_quartile": upper,
        }
    return found


@contextlib.contextmanager
def _running(name: str, row: SpeedRow, rows: Rows, *, case: Case, threads: int) -> Iterator[_Runner]:
    """A row's process, warmed up and waiting for its first turn; it ends with the context."""
    command = program_of(rows.models[row.model]).measurement(mode=row.mode)
    request = {
        "case": case,
        "structures": str(speed_structures()),
        "threads": threads,
        "memory_limit_gib": row.memory_limit_gib,
        "repetitions": row.repetitions,
        "max_seconds": row.max_seconds,
        "output": "",
        "in_turns": True,
    }
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [*(str(word) for word in command.arguments), json.dumps(request)],
            cwd=REPOSITORY,
            env=process_environment(command, threads=threads, allocator="keep"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        runner = _Runner(name, row, process, errors)
        try:
            runner.answer()
            print(f"{name}: ready", file=sys.stderr, flush=True)
            yield runner
        finally:
            process.kill()


def _summary(line: Mapping[str, Any], reference: str) -> str:
    threads = counted(line["threads"], "thread")
    return (
        f"{line['name']} {line['case']}, {threads}: fastest {line['fastest_ms']:.2f} ms, median "
        f"{line['median_ms']:.2f} ms, {line['times_as_fast']:.3f} times as fast as {reference} "
        f"({line['lower_quartile']:.3f} to {line['upper_quartile']:.3f})"
    )
