"""Design choices under one protocol: each row trains on every set, and its errors on held-back data are kept."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from benchmarks.backbones.data import cache_root
from benchmarks.backbones.programs.base import REPOSITORY, Command, process_environment
from benchmarks.backbones.results import provenance, read_results, write_results
from benchmarks.backbones.variants.designs import DESIGNS
from foundation.config import Config, load_yaml, validate
from foundation.errors import InputError

__all__ = ["ABLATIONS_FILE", "Ablations", "load_ablations", "run_ablation"]

ABLATIONS_FILE = Path(__file__).with_name("ablations.yaml")
HOT_SET = "3bpa"
"""The set whose model is tested on the hot frames of the mixed temperatures too."""


class AblationRow(Config):
    """One design.

    Attributes:
        design: A part exchanged in the source (`variants/designs.py`).
        overrides: `key=value` of the recipe, on every set.
        sets: The same for one set alone.
    """

    design: str = "as_it_is"
    overrides: tuple[str, ...] = ()
    sets: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class Ablations(Config):
    """All of them.

    Attributes:
        sets: Name -> recipe and its overrides.
        rows: Name -> design.
    """

    sets: dict[str, tuple[str, ...]]
    rows: dict[str, AblationRow]

    @model_validator(mode="after")
    def _known(self) -> Ablations:
        problems = [
            f"rows.{name}.design: got '{row.design}'; allowed: {', '.join(DESIGNS)}"
            for name, row in self.rows.items()
            if row.design not in DESIGNS
        ]
        problems += [
            f"rows.{name}.sets: got {', '.join(set(row.sets) - set(self.sets))}; allowed: {', '.join(self.sets)}"
            for name, row in self.rows.items()
            if not set(row.sets) <= set(self.sets)
        ]
        if problems:
            raise InputError(problems)
        return self


def load_ablations(file: Path = ABLATIONS_FILE) -> Ablations:
    """Read and check the rows.

    Raises:
        InputError: Each mistake with its path.
    """
    return validate(Ablations, load_yaml(file), where=str(file))


def run_ablation(
    name: str, ablations: Ablations, *, sets: Sequence[str], overrides: Sequence[str], results: Path
) -> Path:
    """Train one row on sets, one thread each, and keep its errors; other sets' results of the row stay.

    Args:
        name: Of the row.
        ablations: All of them.
        sets: Which; empty for all.
        overrides: `key=value` of the recipe, after the row's own.
        results: Where the JSON lines go.

    Returns:
        The file of results.

    Raises:
        InputError: No such row or set, or a training failed.
    """
    if name not in ablations.rows:
        raise InputError(f"ablate: got '{name}'; allowed: {', '.join(ablations.rows)}")
    unknown = [one for one in sets if one not in ablations.sets]
    if unknown:
        raise InputError(f"--sets: got {', '.join(unknown)}; allowed: {', '.join(ablations.sets)}")
    lines = {line["set"]: line for line in read_results(results, kind="ablation").get(name, [])}
    file = results
    for one in sets or ablations.sets:
        row = ablations.rows[name]
        words = (*ablations.sets[one], *row.overrides, *row.sets.get(one, ()), *overrides)
        lines[one] = _measured(row.design, words, one, cache_root() / "ablations" / name / one)
        file = write_results(results, kind="ablation", row=name, lines=lines.values())
    return file


def _measured(design: str, words: Sequence[str], one: str, folder: Path) -> dict[str, Any]:
    """Train and evaluate one row on one set."""
    if folder.exists():
        shutil.rmtree(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run("variants.designs", design, "train", *words, "--out", str(folder))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    errors = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["test"]
    found = next(iter(errors.values()))
    line = {
        "set": one,
        "design": design,
        "words": list(words),
        "forces_mae_meV_per_A": 1e3 * found["forces"]["mae"],
        "forces_rmse_meV_per_A": 1e3 * found["forces"]["rmse"],
        "energy_mae_meV": 1e3 * found["energy"]["mae"],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    if one == HOT_SET:
        line |= json.loads(_run("workers.hot_frames", design, str(folder)).splitlines()[-1])
    return line | provenance()


def _run(module: str, *words: str) -> str:
    """What a module of the harness prints."""
    command = Command([sys.executable, "-m", f"benchmarks.backbones.{module}", *words])
    environment = process_environment(command, threads=1, allocator="keep")
    done = subprocess.run(
        command.arguments, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{' '.join(words)}: ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout
