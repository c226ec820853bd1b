"""`foundation schema [--card]`: the JSON Schema that editors complete recipes and cards from."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

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
    schema = Root.model_json_schema()
    if not options.card:
        schema = partial(schema)
        schema["properties"]["extends"] = {
            "description": "Recipes to start from: names under recipes/ or paths, merged left to right.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
    print(json.dumps(schema, indent=2, ensure_ascii=False))


def partial(schema: Any) -> Any:
    """The schema of a file that others complete: nothing is required, as `extends` may bring it.

    Without its `kind` a mapping may fit several branches of a union, so that "one of" becomes "any of".
    """
    if isinstance(schema, dict):
        return {
            "anyOf" if key == "oneOf" else key: partial(value)
            for key, value in schema.items()
            if key != "required" or not isinstance(value, list)
        }
    return [partial(value) for value in schema] if isinstance(schema, list) else schema
