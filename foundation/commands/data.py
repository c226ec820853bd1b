"""`foundation data list | show CARD | prepare CARD | check CARD | generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("data", help="list, show, check, prepare and generate data sets", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the data cards that ship with the program", allow_abbrev=False)
    listing.set_defaults(run=run_list)
    for name, function, text in (
        ("show", run_show, "what a card says: origin, licence, units, splits, caveats"),
        ("prepare", run_prepare, "convert a card's file into the cache and check it"),
        ("check", run_check, "read a card's whole file and report what is in it; writes nothing"),
    ):
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("card", metavar="CARD", help="a card's name, or a YAML file")
        action.set_defaults(run=function)
    generate = actions.add_parser("generate", help="make labelled molecules with GFN2-xTB", allow_abbrev=False)
    generate.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the files go")
    generate.add_argument("--geometries", type=int, metavar="N", help="labelled geometries (default: as shipped)")
    generate.add_argument(
        "--handedness", type=int, metavar="N", help="molecules with only R or S (default: as shipped)"
    )
    generate.add_argument("--seed", type=int, metavar="N", help="default: that of the shipped files")
    generate.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    generate.set_defaults(run=run_generate)


def run_generate(options: argparse.Namespace) -> None:
    """Make the embedded data set, or a larger one."""
    from rich.console import Console

    from foundation.data.generate.generate import SHIPPED_NUM_GEOMETRIES, SHIPPED_NUM_HANDEDNESS, SHIPPED_SEED, generate
    from foundation.threads import available_cores

    generate(
        options.out,
        num_geometries=SHIPPED_NUM_GEOMETRIES if options.geometries is None else options.geometries,
        num_handedness=SHIPPED_NUM_HANDEDNESS if options.handedness is None else options.handedness,
        seed=SHIPPED_SEED if options.seed is None else options.seed,
        workers=available_cores() if options.workers is None else options.workers,
        console=Console(),
    )
