"""Result files: JSON lines, one file a row, whole at any time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.backbones.programs.base import REPOSITORY

__all__ = ["RESULTS", "provenance", "read_results", "write_results"]

RESULTS = Path(__file__).with_name("results")


def write_results(folder: Path, *, kind: str, row: str, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Replace the file of a row; what was there stays until the new one is whole.

    Args:
        folder: Where results lie.
        kind: `curve` or `speed`.
        row: Its name.
        lines: One mapping a measurement, at least one.
    """
    text = "".join(json.dumps({"kind": kind, "row": row, **line}, allow_nan=False) + "\n" for line in lines)
    assert text, "nothing may not take the place of what was measured before"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{kind}_{row}.jsonl"
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_results(folder: Path, *, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Row -> its measurements, in order of file names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob(f"{kind}_*.jsonl")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if lines:
            found[lines[0]["row"]] = lines
    return found


def provenance() -> dict[str, Any]:
    """Commit, whether files differ from it, processor, cores, load of the machine and time."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = bool(_git("status", "--porcelain", "--untracked-files=no", "--", "foundation", "recipes", "benchmarks"))
    return {
        "commit": f"{commit}{' with changes' if changed else ''}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
