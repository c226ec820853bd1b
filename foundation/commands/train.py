"""`foundation train RECIPE [KEY=VALUE …] [--out DIR] [--resume]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

DESCRIPTION = """Train as a recipe says, evaluate on its val and test parts and write a run directory.

Everything that can be wrong is looked for before compute is spent: recipe, files, units, splits, heads and model."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train as a recipe says",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe such as 'quickstart'")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. trainer.max_epochs=50 seed=1")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run directory (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="go on where the run in DIR stopped, or start it")
    parser.add_argument("--check", action="store_true", help="check everything, print what would train, train nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train."""
    from foundation.run import train

    train(
        options.recipe,
        overrides=tuple(options.overrides),
        out=options.out,
        resume=options.resume,
        check_only=options.check,
    )
