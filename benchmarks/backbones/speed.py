"""Throughput, latency and memory of one model: each case, thread count and allocator in a process of its own."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.backbones.data import speed_structures
from benchmarks.backbones.programs.base import REPOSITORY, Command, process_environment
from benchmarks.backbones.programs.registry import program_of
from benchmarks.backbones.results import provenance, read_results, write_results
from benchmarks.backbones.rows import NUM_ATOMS, Case, Rows, SpeedRow
from foundation.config import apply_overrides, to_dict, validate
from foundation.wording import counted

__all__ = ["derived", "failure", "run_speed"]

MOLECULES_A_STEP = 8


def run_speed(name: str, rows: Rows, *, overrides: Sequence[str], results: Path) -> Path:
    """Measure all cases of a row, and write them; other cases, thread counts and allocators of the file stay.

    Args:
        name: Of the row.
        rows: All of them.
        overrides: `key=value` of the row.
        results: Where the JSON lines go.

    Returns:
        The file of results. A case that fails is a result as well.

    Raises:
        InputError: No such row, or its program is not set up.
    """
    row = validate(SpeedRow, apply_overrides(to_dict(rows.speed_row(name)), overrides), where=f"speed.{name}")
    command = program_of(rows.models[row.model]).measurement(mode=row.mode)
    structures = speed_structures()
    lines = {_key(line): line for line in read_results(results, kind="speed").get(name, [])}
    file = results
    for case, threads, allocator in itertools.product(row.cases, row.threads, row.allocators):
        found = _measure(command, row, case=case, threads=threads, allocator=allocator, structures=structures)
        line = {
            "case": case,
            "model": row.model,
            "mode": row.mode,
            "threads": threads,
            "allocator": allocator,
            **found,
            **provenance(),
        }
        print(_summary(line), file=sys.stderr, flush=True)
        lines[_key(line)] = line
        file = write_results(results, kind="speed", row=name, lines=lines.values())
    return file


def _key(line: Mapping[str, Any]) -> tuple[str, int, str]:
    """What a line is the result of, within a row."""
    return line["case"], line["threads"], line["allocator"]


def _measure(
    command: Command, row: SpeedRow, *, case: Case, threads: int, allocator: str, structures: Path
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        request = {
            "case": case,
            "structures": str(structures),
            "threads": threads,
            "memory_limit_gib": row.memory_limit_gib,
            "repetitions": row.repetitions,
            "max_seconds": row.max_seconds,
            "output": str(output),
        }
        done = subprocess.run(
            [*(str(word) for word in command.arguments), json.dumps(request)],
            cwd=REPOSITORY,
            env=process_environment(command, threads=threads, allocator=allocator),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not output.is_file():
            return {"failed": failure(done.stderr, done.returncode, row.memory_limit_gib)}
        found = json.loads(output.read_text(encoding="utf-8"))
    return found | derived(found, case)


def derived(found: dict[str, Any], case: Case) -> dict[str, Any]:
    """Rates, and how many times the machine's limits the time is."""
    seconds = found["median_ms"] / 1e3
    rates: dict[str, Any] = {"us_per_atom": 1e6 * seconds / NUM_ATOMS[case]}
    if case == "train8":
        rates["molecules_per_s"] = MOLECULES_A_STEP / seconds
    if found["gflop"] is not None:
        rates["times_arithmetic_limit"] = seconds * found["sgemm_gflop_per_s"] / found["gflop"]
        rates["times_memory_limit"] = seconds * found["copy_gbyte_per_s"] / found["gbyte"]
    return rates


def failure(errors: str, code: int, limit_gib: float) -> str:
    """Why a worker ended.

    Args:
        errors: What it wrote to its standard error.
        code: Its exit status.
        limit_gib: Of its memory.
    """
    lines = errors.strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    last = (errors or lines or [f"ended with {code}"])[-1]
    if "memory" in last.lower() or code in {-9, -6}:
        return f"out of memory (limit {limit_gib:g} GiB)"
    return last[:200]


def _summary(line: dict[str, Any]) -> str:
    threads = counted(line["threads"], "thread")
    head = f"{line['model']} {line['mode']} {line['case']}, {threads}, allocator {line['allocator']}"
    return f"{head}: {line['failed']}" if "failed" in line else f"{head}: {line['median_ms']:.2f} ms"
