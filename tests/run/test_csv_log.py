"""metrics.csv: rows are written at once, columns may come later, a resumed run cuts off what it does again."""

from __future__ import annotations

import csv
from pathlib import Path

from foundation.run.csv_log import CsvLog


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if value and key != "wall_s"} for row in csv.DictReader(file)]


def test_columns_that_come_later_are_empty_before(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, step=0)
    log.log_metrics({"train/loss": 1.5, "epoch": 0}, step=1)
    log.log_metrics({"val/loss": 3.0, "epoch": 0}, step=1)
    log.log_metrics({"train/loss": 1.0, "epoch": 1}, step=2)
    assert rows(tmp_path / "metrics.csv") == [
        {"epoch": "0", "step": "0", "train/loss": "2.0"},
        {"epoch": "0", "step": "1", "train/loss": "1.5", "val/loss": "3.0"},
        {"epoch": "1", "step": "2", "train/loss": "1.0"},
    ]


def test_a_resumed_log_drops_steps_that_are_done_again_and_a_cut_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    for step in range(4):
        log.log_metrics({"train/loss": float(step), "epoch": 0}, step=step)
    with path.open("a", encoding="utf-8") as file:
        file.write("0,4")
    again = CsvLog(path)
    again.rewind(2)
    again.log_metrics({"train/loss": 20.0, "epoch": 0}, step=2)
    assert [row["train/loss"] for row in rows(path)] == ["0.0", "1.0", "20.0"]
    with path.open(encoding="utf-8") as file:
        wall = [float(row["wall_s"]) for row in csv.DictReader(file)]
    assert wall == sorted(wall), "the clock goes on where it stood"


def test_numbers_survive_to_the_last_bit(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "metrics.csv")
    log.log_metrics({"a": 0.1 + 0.2}, step=0)
    assert float(rows(tmp_path / "metrics.csv")[0]["a"]) == 0.1 + 0.2
