"""`foundation export MODEL --to KIND`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

KINDS = ("directory",)


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("export", help="write a model for use elsewhere", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model directory or a hub id")
    parser.add_argument(
        "--to", metavar="KIND", required=True, choices=KINDS, help="'directory': weights (safetensors), config and card"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="must not exist yet")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Copy the model's files, after loading it once to see that they are whole."""
    from foundation.hub import copy_model

    copy_model(options.model, options.out)
    print(f"wrote {options.out}")
