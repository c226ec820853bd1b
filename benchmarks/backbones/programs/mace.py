"""mace-torch: its own `mace_run_train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.backbones.clock import ClockSettings
from benchmarks.backbones.data import Split
from benchmarks.backbones.programs.base import Command, Program, pairs, rival_python, worker
from benchmarks.backbones.rows import CurveRow, MaceModelRow
from foundation.errors import InputError

ENDLESS_EPOCHS = 1_000_000
OLD_FILES = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
"""e3nn 0.4.4, which mace pins, reads tables of its own that torch otherwise refuses; mace itself sets this."""


class Mace(Program):
    """mace-torch in its own environment."""

    def __init__(self, model: MaceModelRow) -> None:
        self.model = model

    def training(self, row: CurveRow, *, split: Split, folder: Path, clock: ClockSettings) -> Command:
        if row.mode != "eager":
            raise InputError(f"mode: got '{row.mode}'; mace_run_train of {self.model.version} allows: eager")
        arguments = {
            **self.model.arguments,
            "name": "bakeoff",
            "work_dir": str(folder),
            "train_file": str(split.train_repeated),
            "valid_file": str(split.val),
            "energy_key": "energy",
            "forces_key": "forces",
            "batch_size": row.batch_size,
            "valid_batch_size": 10,
            "max_num_epochs": ENDLESS_EPOCHS,
            "patience": ENDLESS_EPOCHS,
            "default_dtype": "float32",
            "device": "cpu",
            "num_workers": 0,
            "pin_memory": "False",
            "plot": "False",
            "seed": row.seed,
            "restart_latest": True,
            "keep_checkpoints": True,
            "save_all_checkpoints": True,
        }
        given = {name: value for name, value in arguments.items() if value is not False}
        words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
        command = [*worker("train_mace", python=rival_python("mace")), *words]
        return Command(command, environment={**clock.to_environment(), **OLD_FILES})

    def prediction(self, outputs: Mapping[Path, Path], *, split: Split, folder: Path) -> Command:
        command = worker("predict_mace", python=rival_python("mace"))
        return Command([*command, folder / "points" / "model.pt", split.test, *pairs(outputs)], OLD_FILES)

    def measurement(self, *, mode: str) -> Command:
        command = worker("measure_mace", python=rival_python("mace"))
        return Command([*command, json.dumps(self.model.arguments), mode], OLD_FILES)
