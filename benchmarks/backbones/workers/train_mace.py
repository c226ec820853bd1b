"""`mace_run_train` under the bake-off's clock; its arguments are passed on.

Three functions of mace are wrapped, none is replaced: a step counts and keeps weights (the averaged ones) when they are
due, a saved checkpoint carries the clock in a file beside it, a loaded one sets it back.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mace.cli.run_train import main as mace_run_train
from mace.tools import checkpoint as mace_checkpoint

from benchmarks.backbones.clock import ClockSettings, TrainingClock

mace_train = importlib.import_module("mace.tools.train")  # `mace.tools.train` as an attribute is a function

CHECKPOINTS_KEPT = 2


class BudgetUsedError(Exception):
    """Training has had its time."""


def clock_training(clock: TrainingClock) -> None:
    """Put the clock into mace's training loop."""
    plain_step = mace_train.take_step
    folder = Path(clock.settings.folder)

    def take_step(**arguments: Any) -> Any:
        model, ema = arguments["model"], arguments["ema"]
        clock.start()
        if not (folder / "model.pt").is_file():
            with clock.paused():
                folder.mkdir(parents=True, exist_ok=True)
                torch.save(model, folder / "model.pt")  # mace's own format; read back by its own code only

        def save(path: Path) -> None:
            with contextlib.nullcontext() if ema is None else ema.average_parameters():
                torch.save(model.state_dict(), path)

        result = plain_step(**arguments)
        clock.steps += 1
        clock.keep_if_due(save, suffix=".pt", last=clock.finished)
        if clock.finished:
            raise BudgetUsedError
        return result

    mace_train.__dict__["take_step"] = take_step


def clock_checkpoints(clock: TrainingClock) -> None:
    """Keep the clock beside mace's checkpoints, the last two of which stay."""
    plain_save, plain_load = mace_checkpoint.CheckpointIO.save, mace_checkpoint.CheckpointIO.load

    def save(self: Any, checkpoint: Any, epochs: int, keep_last: bool = False) -> None:
        plain_save(self, checkpoint, epochs, keep_last)
        _clock_file(self.old_path).write_text(json.dumps(clock.state()), encoding="utf-8")
        older = sorted(Path(self.directory).glob("*.pt"), key=lambda file: file.stat().st_mtime)[:-CHECKPOINTS_KEPT]
        for file in older:
            file.unlink()
            _clock_file(file).unlink(missing_ok=True)

    def load(self: Any, path: str, device: Any = None) -> Any:
        loaded = plain_load(self, path, device)
        clock.restore(json.loads(_clock_file(path).read_text(encoding="utf-8")))
        return loaded

    mace_checkpoint.CheckpointIO.save, mace_checkpoint.CheckpointIO.load = save, load


def _clock_file(checkpoint: str | Path) -> Path:
    return Path(checkpoint).with_suffix(".clock.json")


def main() -> None:
    clock = TrainingClock(ClockSettings.from_environment())
    torch.set_num_threads(clock.settings.threads)
    clock_training(clock)
    clock_checkpoints(clock)
    with contextlib.suppress(BudgetUsedError):
        mace_run_train()
    print(f"trained {clock.steps} steps, {clock.cpu_s:.0f} CPU s, {clock.wall_s:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
