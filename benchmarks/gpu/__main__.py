"""Throughput, latency, memory and a timed run on a GPU: `python -m benchmarks.gpu`, from the root of the repository.

`--device cpu --quick` runs the same program, much smaller, where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.backbones.data import cache_root
from benchmarks.backbones.results import provenance, write_results
from benchmarks.backbones.rows import load_rows
from benchmarks.gpu.ours import measure_group
from benchmarks.gpu.rivals import measure_rival
from benchmarks.gpu.settings import FULL, MODES, PRECISIONS, QUICK, RIVAL_ROWS, Inputs, groups
from benchmarks.gpu.table import tables
from benchmarks.gpu.training import QUICK as QUICK_TRAINING
from benchmarks.gpu.training import training_run
from foundation.commands.cost import SIZES, stated_backbones
from foundation.devices import usable_device
from foundation.errors import InputError

RESULTS = Path(__file__).with_name("results")
STEPS = ("ours", "rivals", "train")
INPUT_AT_FAULT = 2


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="smallest inputs, eager, smallest size: tries the program")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help=f"default: {' '.join(STEPS)}")
    parser.add_argument("--sizes", nargs="+", metavar="RECIPE", help=f"default: {' '.join(SIZES)}; quick: {SIZES[0]}")
    parser.add_argument("--modes", nargs="+", choices=MODES, help=f"default: {' '.join(MODES)}; quick: eager")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="default: all")
    parser.add_argument("--train-minutes", type=int, default=10, help="of the run on aspirin; default: 10")
    parser.add_argument("--train-set", nargs="+", metavar="KEY=VALUE", default=(), help="overrides of that run")
    parser.add_argument("--results", type=Path, help="default: results/ beside this program; quick: in the cache")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured before")
    return parser


def run(options: argparse.Namespace) -> None:
    """Run the steps, each result written as soon as it is there.

    Raises:
        InputError: A device that is not there, or an unknown size.
    """
    quick_results = cache_root() / "gpu_quick"
    results = options.results or (quick_results if options.quick else RESULTS)
    if not options.table:
        device = str(usable_device(options.device))
        sizes = tuple(options.sizes or (SIZES[:1] if options.quick else SIZES))
        stated_backbones(sizes)
        inputs = QUICK if options.quick else FULL
        steps: dict[str, Callable[[], None]] = {
            "ours": lambda: _ours(options, sizes, inputs, device=device, results=results),
            "rivals": lambda: _rivals(options, inputs, device=device, results=results),
            "train": lambda: _train(options, device=device, results=results),
        }
        for step in STEPS:
            if step in options.steps:
                steps[step]()
    print(tables(results))


def _ours(options: argparse.Namespace, sizes: tuple[str, ...], inputs: Inputs, *, device: str, results: Path) -> None:
    modes = tuple(options.modes or (MODES[:1] if options.quick else MODES))
    for group in groups(recipes=sizes, modes=modes, precisions=tuple(options.precisions), device=device):
        _say(group.row)
        _write(results, group.row, measure_group(group, inputs))


def _rivals(options: argparse.Namespace, inputs: Inputs, *, device: str, results: Path) -> None:
    rows = load_rows()
    # Compiling nequip takes longer on a CPU than all else here together.
    rivals = [replace(rival, mode="eager") for rival in RIVAL_ROWS] if options.quick else RIVAL_ROWS
    for rival in rivals:
        for precision in (one for one in options.precisions if one != "bf16"):
            if precision == "tf32" and device == "cpu":
                continue
            row = f"{rival.row}-{precision}"
            _say(row)
            found = list(measure_rival(rival, rows, inputs, device=device, tf32=precision == "tf32"))
            _write(results, row, found)


def _train(options: argparse.Namespace, *, device: str, results: Path) -> None:
    overrides = (*(QUICK_TRAINING if options.quick else ()), *options.train_set)
    _say(f"train, at most {options.train_minutes} minutes")
    out = results / "runs" / f"aspirin-{provenance()['time'].replace(':', '')[:19]}"
    line = training_run(device=device, minutes=options.train_minutes, overrides=overrides, out=out)
    _write(results, "train-aspirin", [line])


def _write(results: Path, row: str, lines: Sequence[dict[str, Any]]) -> None:
    facts = provenance()
    write_results(results, kind="gpu", row=row, lines=[{**line, **facts} for line in lines])
    for line in lines:
        if "failed" in line:
            _say(f"  {line['case']}: {line['failed']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 2 if the input is at fault."""
    try:
        run(build_parser().parse_args(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_AT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
