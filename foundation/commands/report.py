"""`foundation report RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("report", help="write report.html of a run again", allow_abbrev=False)
    parser.add_argument("run_directory", metavar="RUN", type=Path, help="a run directory")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the report."""
    from foundation.report import write_report

    print(f"wrote {write_report(options.run_directory)}")
