"""`metrics.csv`: one row a logged step, columns added as metrics appear; goes on where a resumed run stopped."""

from __future__ import annotations

import csv
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from foundation.run.checkpoint_files import sync_folder

__all__ = ["CsvLog", "RewindLog"]

FIRST_COLUMNS = ("epoch", "step", "wall_s")


class CsvLog(Logger):
    """Writes every row at once, so that a killed run leaves all it logged.

    Args:
        path: The file; rows that it holds already are kept until `rewind`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, str]] = []
        self._columns = list(FIRST_COLUMNS)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                # A row that was being written when the run was killed has empty or missing cells at its end.
                self._rows = [row for row in reader if _is_whole(row)]
                self._columns = list(reader.fieldnames or FIRST_COLUMNS)
        self._wall_before = float(self._rows[-1]["wall_s"]) if self._rows else 0.0
        self._started = time.monotonic()

    @property
    def name(self) -> str:
        """Lightning asks for a name."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: `recipe.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one row; metrics of the same step and epoch as the last row join it, and change nothing if in it."""
        values = {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        epoch = "" if "epoch" not in metrics else str(int(metrics["epoch"]))
        wall = f"{self._wall_before + time.monotonic() - self._started:.3f}"
        row = {"epoch": epoch, "step": "" if step is None else str(step), "wall_s": wall, **values}
        new_columns = [name for name in row if name not in self._columns]
        last = self._rows[-1] if self._rows else {}
        is_same = last.get("step") == row["step"] and last.get("epoch") == epoch
        if is_same and values.items() <= last.items():
            return
        joins = is_same and not values.keys() & _filled(last)
        if joins:
            self._rows[-1] = {**last, **row}
        else:
            self._rows.append(row)
        if new_columns or joins:
            self._columns += new_columns
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop rows of steps that are going to be done again.

        Args:
            step: Optimizer steps that the restored run has done.
        """
        self._rows = [row for row in self._rows if row["step"] == "" or int(row["step"]) < step]
        self._wall_before = float(self._rows[-1]["wall_s"]) if self._rows else 0.0
        self._started = time.monotonic()
        self._rewrite()

    @rank_zero_only
    def bring_to_disk(self) -> None:
        """Make what was logged last through a power cut."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self.path.parent)

    def _rewrite(self) -> None:
        temporary = self.path.with_suffix(".csv.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(temporary, self.path)


class RewindLog(Callback):
    """Cuts the log back to the step that a run resumes from."""

    def __init__(self, log: CsvLog) -> None:
        self._log = log

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """After the checkpoint was restored, before the first step."""
        self._log.rewind(trainer.global_step)


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    return None not in row and None not in row.values() and str(row.get("step", "")).isdecimal()


def _filled(row: Mapping[str, str]) -> set[str]:
    return {name for name, value in row.items() if value != "" and name not in FIRST_COLUMNS}
