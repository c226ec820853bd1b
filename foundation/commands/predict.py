"""`foundation predict MODEL INPUT… --out FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


INPUTS = "smi csv sdf mol xyz extxyz cif db traj; all but db and traj also compressed (gz xz bz2)"


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("predict", help="predict for structures or molecules", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model directory or a hub id")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help=INPUTS)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="csv, sdf, extxyz (or xyz) or json")
    parser.add_argument("--properties", metavar="NAME", nargs="+", help="default: all that make sense")
    parser.add_argument("--level", metavar="NAME", help="level of theory, where the model knows several")
    parser.add_argument("--charge", metavar="Q", type=float, help="total charge in e, where the files do not say")
    parser.add_argument("--spin", metavar="M", type=int, help="multiplicity 2S+1, where the files do not say")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Predict and write one file."""
    from foundation.checkpoint import load
    from foundation.predict import predict_files
    from foundation.threads import set_threads
    from foundation.wording import counted

    set_threads(None)
    predictions = predict_files(
        load(options.model, device=options.device),
        options.inputs,
        out=options.out,
        properties=options.properties,
        level=options.level,
        charge=options.charge,
        spin=options.spin,
    )
    print(f"wrote {counted(len(predictions), 'prediction')} to {options.out}")
