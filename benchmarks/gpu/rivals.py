"""mace-torch (with cuEquivariance where it is installed) and nequip (compiled) on the same structures as our models."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.backbones.programs.base import REPOSITORY, Command, process_environment, rival_python
from benchmarks.backbones.programs.mace import Mace
from benchmarks.backbones.programs.registry import program_of
from benchmarks.backbones.rows import MaceModelRow, Rows
from benchmarks.gpu.ours import last_error
from benchmarks.gpu.settings import Inputs, Rival
from foundation.cost import aspirin_molecules, water_box
from foundation.errors import InputError

__all__ = ["left_out", "measure_rival", "write_structures"]

MOST_FRAMES = 512
MEMORY_LIMIT_GIB = 64.0


def write_structures(folder: Path, inputs: Inputs) -> None:
    """Write what our models are measured on as files: labels at random, cost does not depend on them."""
    molecules = aspirin_molecules(min(MOST_FRAMES, 8 * max(inputs.batch_sizes)))
    generator = np.random.default_rng(0)
    for atoms in molecules:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=generator.standard_normal((len(atoms), 3)))
    ase.io.write(folder / "aspirin.xyz", molecules, format="extxyz")
    for side in inputs.water_sides:
        box = water_box(side)
        ase.io.write(folder / f"water{len(box)}.xyz", box, format="extxyz")


def left_out(rival: Rival, rows: Rows) -> str | None:
    """Why a row cannot be measured here; None if it can."""
    program = rows.models[rival.model].program
    try:
        python = rival_python(program)
    except InputError as error:
        return f"left out: {error}"
    if rival.acceleration is None:
        return None
    found = subprocess.run(
        [python, "-c", "import cuequivariance_torch, cuequivariance_ops_torch"], capture_output=True, check=False
    )
    if found.returncode == 0:
        return None
    return f"left out: no cuequivariance_torch and cuequivariance_ops_torch at {python.parent.parent}; see README.md"


def measure_rival(rival: Rival, rows: Rows, inputs: Inputs, *, device: str, tf32: bool) -> Iterator[dict[str, Any]]:
    """One line a case, each measured in a process of its own."""
    common = {"program": rows.models[rival.model].program, **asdict(rival), "precision": "tf32" if tf32 else "float32"}
    common["device"] = device
    reason = left_out(rival, rows)
    if reason is not None:
        yield {**common, "case": "all", "failed": reason}
        return
    command = _command(rival, rows)
    with tempfile.TemporaryDirectory() as folder:
        write_structures(Path(folder), inputs)
        trains = [f"train{size}" for size in inputs.batch_sizes]
        boxes = [f"water{3 * side**3}" for side in inputs.water_sides]
        for case in (*trains, "aspirin", *boxes):
            found = _measure(command, case, Path(folder), inputs, device=device, tf32=tf32)
            yield {**common, "case": case, **found}


def _command(rival: Rival, rows: Rows) -> Command:
    model = rows.models[rival.model]
    if rival.acceleration is not None:
        assert isinstance(model, MaceModelRow), "only mace has another set of operators"
        arguments = {**model.arguments, "acceleration": rival.acceleration}
        return Mace(model.model_copy(update={"arguments": arguments})).measurement(mode=rival.mode)
    return program_of(model).measurement(mode=rival.mode)


def _measure(command: Command, case: str, folder: Path, inputs: Inputs, *, device: str, tf32: bool) -> dict[str, Any]:
    output = folder / f"{case}.json"
    threads = len(os.sched_getaffinity(0)) if device != "cpu" else int(os.environ.get("OMP_NUM_THREADS", "1"))
    request = {
        "case": case,
        "structures": str(folder),
        "threads": threads,
        "memory_limit_gib": MEMORY_LIMIT_GIB,
        "repetitions": inputs.repetitions,
        "max_seconds": inputs.max_seconds,
        "output": str(output),
        "device": device,
        "tf32": tf32,
    }
    done = subprocess.run(
        [*(str(word) for word in command.arguments), json.dumps(request)],
        cwd=REPOSITORY,
        env=process_environment(command, threads=threads, allocator="keep"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not output.is_file():
        return {"failed": last_error(done.stderr, done.returncode)}
    return _line(json.loads(output.read_text(encoding="utf-8")), case)


def _line(found: dict[str, Any], case: str) -> dict[str, Any]:
    """In the terms of our own lines."""
    structures = int(case.removeprefix("train")) if case.startswith("train") else 1
    atoms = int(case.removeprefix("water")) if case.startswith("water") else 21 * structures
    milliseconds = found["median_ms"]
    return {
        "parameters": found["parameters"],
        "structures": structures,
        "atoms": atoms,
        "median_ms": milliseconds,
        "repetitions": found["repetitions"],
        "structures_per_s": 1e3 * structures / milliseconds,
        "us_per_atom": 1e3 * milliseconds / atoms,
        "peak_mbyte": found.get("peak_device_mbyte"),
        "gflop": found["gflop"],
        "gflop_per_s": None if found["gflop"] is None else 1e3 * found["gflop"] / milliseconds,
    }
