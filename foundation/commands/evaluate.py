"""`foundation evaluate MODEL DATA [--split test] [--json FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


SPLIT_HELP = "default: test; a FILE whose card states no split is evaluated whole, which is called `all`"


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("evaluate", help="errors of a model on labelled data", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model directory or a hub id")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a data set of the run, a card's name, a card file, or FILE with --card",
    )
    parser.add_argument("--card", metavar="YAML", type=Path, help="inline card of FILE: keys, units, charge, spin, …")
    parser.add_argument("--split", default="test", choices=("train", "val", "test", "all"), help=SPLIT_HELP)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the errors here as well")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate and print a table."""
    from foundation.run import describe_errors, evaluate_model

    metrics = evaluate_model(
        options.model,
        data=options.data,
        card=options.card,
        split=options.split,
        json_path=options.json,
        device=options.device,
    )
    print(describe_errors(metrics))
