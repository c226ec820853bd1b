"""Our models: each mode and precision in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.backbones.programs.base import REPOSITORY
from benchmarks.gpu.settings import Group, Inputs

__all__ = ["environment", "last_error", "measure_group"]


def measure_group(group: Group, inputs: Inputs) -> list[dict[str, Any]]:
    """All cases of one model; if its process dies, those that it finished and one line that says so."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lines.jsonl"
        request = {"group": asdict(group), "inputs": asdict(inputs), "output": str(output)}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.worker", json.dumps(request)],
            cwd=REPOSITORY,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        written = output.read_text(encoding="utf-8").splitlines() if output.is_file() else []
    lines = [json.loads(line) for line in written if line.endswith("}")]
    if done.returncode != 0:
        lines.append({"case": "rest", "failed": last_error(done.stderr, done.returncode)})
    return [{"program": "foundation", **asdict(group), **line} for line in lines]


def environment() -> dict[str, str]:
    """Of a process that imports this checkout's packages."""
    paths = [str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def last_error(stderr: str, code: int) -> str:
    """The last thing that a process said."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return f"ended with {code}: {lines[-1] if lines else 'without a word'}"[:300]
