"""What an editor says of each key of a configuration: taken from the docstring of its class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["described", "descriptions"]

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_ALIAS = re.compile(r"`(\w+)` in YAML: ")


def descriptions(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say under `Attributes:`, by the key that files have."""
    found = {}
    for base in reversed(kind.__mro__):
        attributes = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        for match in _ATTRIBUTE.finditer(attributes):
            text = " ".join(match[2].split())
            alias = _ALIAS.match(text)
            key, text = (match[1], text) if alias is None else (alias[1], text[alias.end() :])
            found[key] = text[0].upper() + text[1:]
    return found


def described(schema: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """A JSON Schema of an object with a description of each key that has none.

    Args:
        schema: Of the object; its own description serves for `kind`, and for keys that it names in backquotes.
        texts: Key -> description.
    """
    summary = str(schema.get("description", "")).partition("\n\n")[0]
    properties = {}
    for key, value in schema.get("properties", {}).items():
        text = texts.get(key, summary if key == "kind" or f"`{key}`" in summary else "")
        properties[key] = {"description": text, **value} if text else value
    return {**schema, "properties": properties}
