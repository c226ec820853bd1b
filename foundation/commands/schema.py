"""`foundation schema [--card]`: the JSON Schema that editors complete recipes and cards from."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("schema", help="print the JSON Schema of recipes or cards", allow_abbrev=False)
    parser.add_argument("--card", action="store_true", help="of data cards, not of recipes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the schema."""
    if options.card:
        from foundation.data.card import DataCard as Root
    else:
        from foundation.recipe import Recipe as Root
    print(json.dumps(Root.model_json_schema(), indent=2, ensure_ascii=False))
