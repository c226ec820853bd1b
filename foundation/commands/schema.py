"""`foundation schema [--card]`: the JSON Schema that editors complete recipes and cards from."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction


DESCRIPTION = """Print the JSON Schema of recipes, or of data cards, for editors to complete and check them with.

    foundation schema > recipe.schema.json

A first line in the file that is edited names it, relative to that file:

    # yaml-language-server: $schema=recipe.schema.json

Editors with the YAML language server read this line (VS Code: the extension "YAML" by Red Hat)."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of recipes or cards",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--card", action="store_true", help="of data cards, not of recipes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the schema."""
    print(json.dumps(card_schema() if options.card else recipe_schema(), indent=2, ensure_ascii=False))


def card_schema() -> dict[str, Any]:
    """Of data cards, whose facts are those of a recipe's `data:`."""
    from foundation.config_schema import described, descriptions
    from foundation.data.card import DataCard, DatasetConfig

    return described(DataCard.model_json_schema(), descriptions(DatasetConfig))


def recipe_schema() -> dict[str, Any]:
    """Of recipes, which may leave to `extends` what they do not say."""
    from foundation.recipe import Recipe

    schema = partial(Recipe.model_json_schema())
    schema["properties"]["extends"] = {
        "description": "Recipes to start from: names under recipes/ or paths, merged left to right.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return schema


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
