"""`foundation predict MODEL INPUT… --out FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("predict", help="predict for structures or molecules", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model directory or a hub id")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help="smi csv sdf mol xyz extxyz cif db")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="csv, sdf, extxyz or json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Predict."""
