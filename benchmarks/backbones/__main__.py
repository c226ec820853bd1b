"""The bake-off's command line: `python -m benchmarks.backbones COMMAND`, from the root of the repository.

setup RIVAL                       make a rival's environment (mace, nequip)
curve ROW [KEY=VALUE ...]         train under the clock and evaluate; the same command again goes on
speed ROW [KEY=VALUE ...]         throughput, latency, memory, distance from the machine's limits
turns ROW ROW ...                 ratios of speeds: processes that take turns, so that a changing machine is fair to all
ablate ROW ... [--sets SET ...]   train design choices (ablations.yaml) under one protocol and keep their errors
list                              all rows
table                             results as markdown
plot FILE                         time-to-error curves as PNG or SVG
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.backbones.ablate import load_ablations, run_ablation
from benchmarks.backbones.curve import run_curve
from benchmarks.backbones.environments import set_up
from benchmarks.backbones.plot import plot_curves
from benchmarks.backbones.programs.registry import RIVALS
from benchmarks.backbones.results import RESULTS
from benchmarks.backbones.rows import CASES, ROWS_FILE, load_rows
from benchmarks.backbones.speed import run_speed
from benchmarks.backbones.table import tables
from benchmarks.backbones.turns import run_turns
from foundation.errors import InputError

INPUT_AT_FAULT = 2
LEAST_ROUNDS = 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backbones", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=ROWS_FILE, help="default: rows.yaml beside this program")
    parser.add_argument(
        "--results", type=Path, help="default: results/ beside this program; of a curve with --out, that folder"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    setup = commands.add_parser("setup", help="make a rival's environment")
    setup.add_argument("rival", choices=RIVALS)
    curve = commands.add_parser("curve", help="time-to-error curve of a row")
    curve.add_argument("row")
    curve.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. budget_cpu_s=60 data.test=20")
    curve.add_argument(
        "--out",
        type=Path,
        help="folder of a trial, its results included unless --results says where (default: in the cache)",
    )
    curve.add_argument("--evaluate-only", action="store_true", help="evaluate what was kept so far, do not train")
    speed = commands.add_parser("speed", help="throughput, latency and memory of a row")
    speed.add_argument("row")
    speed.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. cases='[train8]' threads='[1]'")
    turns = commands.add_parser("turns", help="how many times as fast as the first row others are, in turns")
    turns.add_argument("row", nargs="+")
    turns.add_argument("--case", choices=CASES, default="train8")
    turns.add_argument("--threads", type=int, default=2)
    turns.add_argument("--rounds", type=_rounds, default=20)
    ablate = commands.add_parser("ablate", help="train design choices under one protocol")
    ablate.add_argument("row", nargs="+")
    ablate.add_argument("--sets", nargs="*", default=[], help="of ablations.yaml; default: all")
    ablate.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("list", help="all rows")
    commands.add_parser("table", help="results as markdown")
    plot = commands.add_parser("plot", help="time-to-error curves as a picture")
    plot.add_argument("file", type=Path, help="ending in .png or .svg")
    return parser


def _rounds(word: str) -> int:
    if int(word) < LEAST_ROUNDS:
        raise argparse.ArgumentTypeError(f"got {word}; allowed: {LEAST_ROUNDS} or more")
    return int(word)


def run(options: argparse.Namespace) -> None:
    """Run one command.

    Raises:
        InputError: What was asked for cannot be done.
    """
    rows = load_rows(options.rows)
    results = options.results or RESULTS
    match options.command:
        case "setup":
            set_up(options.rival, rows)
        case "curve":
            file = run_curve(
                options.row,
                rows,
                overrides=options.overrides,
                out=options.out,
                results=options.results or options.out or RESULTS,  # a trial leaves the published figures alone
                evaluate_only=options.evaluate_only,
            )
            print(file)
        case "speed":
            print(run_speed(options.row, rows, overrides=options.overrides, results=results))
        case "turns":
            file = run_turns(
                options.row,
                rows,
                case=options.case,
                threads=options.threads,
                rounds=options.rounds,
                results=results,
            )
            print(file)
        case "ablate":
            ablations = load_ablations()
            for name in options.row:
                print(run_ablation(name, ablations, sets=options.sets, overrides=options.overrides, results=results))
        case "list":
            for kind, names in (("curve", rows.curves), ("speed", rows.speed)):
                print("\n".join(f"{kind} {name}" for name in names))
        case "table":
            print(tables(results))
        case "plot":
            plot_curves(results, options.file)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in {"curve", "speed"} and not any(word.startswith("-") for word in rest):
        options.overrides += rest  # KEY=VALUE behind an option, which argparse does not put together
    elif rest:
        parser.error(f"unrecognised: {' '.join(rest)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 2 if the input is at fault."""
    try:
        run(_parse(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return INPUT_AT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
