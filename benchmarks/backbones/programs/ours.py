"""Our own program: `foundation train` with a shipped recipe, on the bake-off's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.backbones.clock import ClockSettings
from benchmarks.backbones.data import FRAMES_PER_EPOCH, Split
from benchmarks.backbones.lightning_clock import register
from benchmarks.backbones.programs.base import Command, Program, pairs, worker
from benchmarks.backbones.rows import CurveRow, FoundationModelRow
from foundation.config import dump_yaml
from foundation.recipe import load_recipe
from foundation.run.directory import recipe_to_dict

RUN = "run"
VALIDATIONS_PER_RUN = 32


class Ours(Program):
    """`foundation`, in the environment that this harness runs in."""

    def __init__(self, model: FoundationModelRow) -> None:
        self.model = model

    def training(self, row: CurveRow, *, split: Split, folder: Path, clock: ClockSettings) -> Command:
        register(folder / "entry_point")
        recipe = self._recipe(row, split)
        (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
        summary = folder / RUN / "summary.json"
        if summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["training"]["stopped_by"] is not None:
            summary.unlink()  # the budget cut it short; now there is more
        code = "import sys; from foundation.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = [sys.executable, "-c", code, "train", folder / "recipe.yaml", "--out", folder / RUN, "--resume"]
        return Command(arguments, environment=clock.to_environment(), import_paths=[folder / "entry_point"])

    def _recipe(self, row: CurveRow, split: Split) -> dict[str, Any]:
        """The shipped recipe with its data replaced and as many steps for every size of the training set."""
        epochs = round(self.model.epochs * FRAMES_PER_EPOCH / row.data.train)
        mode = ("compile.enabled=true",) if row.mode == "compile" else ()
        recipe = recipe_to_dict(load_recipe(self.model.recipe, overrides=(*self.model.overrides, *mode)))
        (dataset,) = recipe["data"]
        recipe["data"] = {
            dataset: {
                "source": {"train": str(split.train), "val": str(split.val)},
                "format": "extxyz",
                "level_of_theory": split.level_of_theory,
                "charge": 0,
                "spin": 1,
                "properties": {
                    "energy": {"key": "energy", "unit": "eV"},
                    "forces": {"key": "forces", "unit": "eV/Å"},
                },
            }
        }
        recipe["batch"] = {**recipe["batch"], "max_structures": row.batch_size}
        recipe["trainer"] = {
            **recipe["trainer"],
            "max_epochs": epochs,
            "check_val_every_n_epoch": max(1, epochs // VALIDATIONS_PER_RUN),
            "accelerator": "cpu",
            "enable_progress_bar": False,
        }
        return {**recipe, "threads": row.threads, "seed": row.seed, "report": False}

    def prediction(self, outputs: Mapping[Path, Path], *, split: Split, folder: Path) -> Command:
        return Command([*worker("predict_foundation"), folder / RUN, split.test, *pairs(outputs)])

    def measurement(self, *, mode: str) -> Command:
        settings = {"recipe": self.model.recipe, "overrides": list(self.model.overrides)}
        return Command([*worker("measure_foundation"), json.dumps(settings), mode])
