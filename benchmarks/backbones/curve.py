"""A time-to-error curve: training under the clock by the program's own code, then evaluation off the clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.backbones.clock import ClockSettings
from benchmarks.backbones.data import Split, cache_root, load_frames, written_split
from benchmarks.backbones.programs.base import Command, process_environment
from benchmarks.backbones.programs.registry import program_of
from benchmarks.backbones.results import provenance, write_results
from benchmarks.backbones.rows import CurveRow, Rows
from foundation.config import apply_overrides, to_dict, validate
from foundation.errors import InputError

__all__ = ["run_curve"]

MAY_CHANGE = {"budget_cpu_s", "growth", "first_point_cpu_s"}
TO_MEV = 1000.0
PREDICTION_THREADS = 1


def run_curve(
    name: str, rows: Rows, *, overrides: Sequence[str], out: Path | None, results: Path, evaluate_only: bool
) -> Path:
    """Run or go on with a row, and write its curve.

    Args:
        name: Of the row.
        rows: All of them.
        overrides: `key=value` of the row.
        out: Folder of the run; None for one in the cache, named like the row.
        results: Where the JSON lines go.
        evaluate_only: Evaluate what was kept so far and do not train.

    Returns:
        The file of results.

    Raises:
        InputError: No such row; the folder belongs to a row with other settings; the program failed; no weights were
            kept, where the results stay as they were.
    """
    row = validate(CurveRow, apply_overrides(to_dict(rows.curve(name)), overrides), where=f"curves.{name}")
    folder = cache_root() / "runs" / name if out is None else out
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"row": to_dict(row), "model": to_dict(rows.models[row.model])}
    _claim(folder, settings)
    data = row.data
    split = written_split(data.molecule, num_train=data.train, num_val=data.val, num_test=data.test)
    program = program_of(rows.models[row.model])
    clock = ClockSettings(
        folder=str(folder / "points"),
        budget_cpu_s=row.budget_cpu_s,
        first_point_cpu_s=row.first_point_cpu_s,
        growth=row.growth,
        threads=row.threads,
    )
    if not evaluate_only and _trained_for(folder) < row.budget_cpu_s:
        command = program.training(row, split=split, folder=folder, clock=clock)
        _say(f"training {name} for {row.budget_cpu_s:g} CPU s in {folder}; log: {folder / 'train.log'}")
        _run(command, folder=folder, log=folder / "train.log", threads=row.threads)
        trained = {"budget_cpu_s": row.budget_cpu_s, **provenance()}
        (folder / "trained.json").write_text(json.dumps(trained) + "\n", encoding="utf-8")
    points = [json.loads(file.read_text(encoding="utf-8")) for file in _point_files(folder)]
    if not points:
        raise InputError(
            f"curve {name}: {folder / 'points'} holds no weights to evaluate; allowed: a run that was trained (the "
            "same command without --evaluate-only trains it)"
        )
    outputs = {folder / "points" / point["weights"]: _predictions(folder, point) for point in points}
    missing = {weights: output for weights, output in outputs.items() if not output.is_file()}
    if missing:
        command = program.prediction(missing, split=split, folder=folder)
        _run(command, folder=folder, log=folder / "evaluate.log", threads=PREDICTION_THREADS)
    for point in points:
        point |= errors(_predictions(folder, point), split)
        _say(f"{point['steps']} steps, {point['cpu_s']:.0f} CPU s: forces {point['forces_mae_meV_per_A']:.2f} meV/Å")
    machine = _trained(folder) | {"threads": row.threads}
    lines = ({**settings["row"], **point, **machine} for point in points)
    return write_results(results, kind="curve", row=name, lines=lines)


def errors(predictions: Path, split: Split) -> dict[str, float]:
    """Errors on the test frames: meV/Å over force components, meV over total energies; of hot frames by themselves."""
    found, wanted = load_frames(predictions), load_frames(split.labels)
    if found.forces.shape != wanted.forces.shape:
        raise InputError(
            f"{predictions}: forces have shape {found.forces.shape}; the labels have {wanted.forces.shape}"
        )
    result = {}
    for prefix, chosen in (("", ~wanted.hot), ("hot_", wanted.hot)):
        if not chosen.any():
            continue
        forces = TO_MEV * (found.forces - wanted.forces)[chosen]
        energies = TO_MEV * (found.energy - wanted.energy)[chosen]
        result |= {
            f"{prefix}forces_mae_meV_per_A": float(np.abs(forces).mean()),
            f"{prefix}forces_rmse_meV_per_A": float(np.sqrt(np.square(forces).mean())),
            f"{prefix}energy_mae_meV": float(np.abs(energies).mean()),
            f"{prefix}energy_rmse_meV": float(np.sqrt(np.square(energies).mean())),
            f"{'hot' if prefix else 'test'}_frames": int(chosen.sum()),
        }
    return result


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write what the folder is for, or refuse one that is for something else.

    Raises:
        InputError: Each difference.
    """
    file = folder / "row.json"
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        problems = [
            f"{folder}: {section}.{key}: this run has {stored[section].get(key)!r}, the row says {value!r}; "
            "allowed: the run's own settings, or another --out"
            for section in ("row", "model")
            for key, value in settings[section].items()
            if stored[section].get(key) != value and key not in MAY_CHANGE
        ]
        if problems:
            raise InputError(problems)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _point_files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "points").glob("*.json") if file.stem.isdecimal())


def _predictions(folder: Path, point: dict[str, Any]) -> Path:
    return folder / "points" / f"{point['steps']:09d}.predictions.npz"


def _trained(folder: Path) -> dict[str, Any]:
    file = folder / "trained.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else provenance()


def _trained_for(folder: Path) -> float:
    """The budget that was used up, CPU seconds; zero if training was interrupted."""
    return float(_trained(folder).get("budget_cpu_s", 0.0))


def _run(command: Command, *, folder: Path, log: Path, threads: int) -> None:
    """Run a process to its end; if this one is asked to stop, so is that.

    Raises:
        InputError: It failed.
    """
    variables = process_environment(command, threads=threads, allocator="keep")
    variables["TORCHINDUCTOR_CACHE_DIR"] = str(
        folder / "inductor"
    )  # what an earlier run compiled is no gift to this one
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [str(word) for word in command.arguments],
            cwd=folder,
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        with _passing_on_signals(process):
            code = process.wait()
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise InputError(f"{command.arguments[0]}: ended with {code}; the end of {log}:\n{tail}")


@contextmanager
def _passing_on_signals(process: subprocess.Popen[bytes]) -> Any:
    def pass_on(number: int, frame: object) -> None:  # noqa: ARG001
        process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
