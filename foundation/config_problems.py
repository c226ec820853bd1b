"""Turn pydantic's findings into sentences: what, where, got, allowed, and the nearest right word."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic
from pydantic import BaseModel

from foundation.errors import InputError

__all__ = ["describe_kind", "describe_problems", "nearest"]


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The most similar of the allowed words, or None if none is similar."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def describe_problems(
    kind: type[BaseModel], data: Mapping[str, Any], error: pydantic.ValidationError, *, where: str
) -> list[str]:
    """Say each problem once, by its path in the user's file.

    Args:
        kind: The class that was asked for.
        data: What did not fit it.
        error: Pydantic's findings.
        where: What to call the data, usually the file.
    """
    found: dict[tuple[Any, ...], list[str]] = {}
    for item in error.errors(include_url=False):
        path = _data_path(data, item["loc"], missing=item["type"] == "missing")
        if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            path = (*path, "kind")
        found.setdefault(path, []).extend(_sentences(kind, item))
    paths = set(found)
    problems = []
    for path, sentences in found.items():
        deeper = any(other[: len(path)] == path and len(other) > len(path) for other in paths)
        if deeper and all(sentence.startswith("got ") for sentence in sentences):
            continue  # the other branches of a union; the branch that was meant is reported deeper
        at = ".".join(str(part) for part in path)
        prefix = f"{where}: {at}: " if at else f"{where}: "
        got = [sentence for sentence in dict.fromkeys(sentences) if sentence.startswith("got ")]
        if len(got) > 1:
            allowed = dict.fromkeys(sentence.split("; allowed: ", 1)[-1] for sentence in got)
            got = [f"{got[0].split('; allowed: ', 1)[0]}; allowed: {' or '.join(allowed)}"]
        rest = [sentence for sentence in dict.fromkeys(sentences) if not sentence.startswith("got ")]
        # A validator of a whole section names the key itself, with its path.
        problems += [
            (f"{where}: " if at and sentence.startswith((f"{at}.", f"{at}: ")) else prefix) + sentence
            for sentence in (*got, *rest)
        ]
    return problems


def _data_path(data: Any, loc: tuple[int | str, ...], *, missing: bool) -> tuple[Any, ...]:
    """Leave out of pydantic's location the names of union branches, which are not in the user's file."""
    path: list[Any] = []
    for position, part in enumerate(loc):
        if isinstance(data, Mapping) and (part in data or str(part) in {str(key) for key in data}):
            data = next(value for key, value in data.items() if str(key) == str(part))
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (missing and position == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _sentences(kind: type[BaseModel], item: Any) -> tuple[str, ...]:
    """One, or all that a validator found."""
    cause = item.get("ctx", {}).get("error")
    return cause.problems if isinstance(cause, InputError) else (_sentence(kind, item),)


def _sentence(kind: type[BaseModel], item: Any) -> str:
    error, value, context = item["type"], item["input"], item.get("ctx", {})
    if error == "extra_forbidden":
        allowed = sorted({name for model in _models_at(kind, item["loc"][:-1]) for name in _keys(model)})
        close = nearest(str(item["loc"][-1]), allowed)
        hint = f"; nearest: '{close}'" if close else ""
        return f"unknown key '{item['loc'][-1]}'{hint}; allowed: {', '.join(allowed)}"
    if error == "missing":
        return "missing; it has to be given"
    if error == "union_tag_not_found":
        return f"missing; allowed: {', '.join(_kinds_at(kind, item['loc']))}"
    if error == "union_tag_invalid":
        kinds = _kinds_at(kind, item["loc"])
        close = nearest(str(context["tag"]), kinds)
        hint = f"; nearest: '{close}'" if close else ""
        return f"got '{context['tag']}'{hint}; allowed: {', '.join(kinds)}"
    if error in ("value_error", "assertion_error"):
        return item["msg"].split(", ", 1)[-1]
    allowed_text = re.sub(r"^Input should be ", "", item["msg"])
    return f"got {value!r} ({describe_kind(value)}); allowed: {allowed_text}"


def describe_kind(value: Any) -> str:
    """What a YAML value is, in words."""
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _alternatives(annotation: Any) -> list[Any]:
    """The classes and containers that an annotation allows."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [choice for argument in typing.get_args(annotation) for choice in _alternatives(argument)]
    return [annotation]


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    """Each key as it is written in files, and its annotation."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _kind_of_model(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get("kind")
    return tuple(str(value) for value in typing.get_args(field.annotation)) if field is not None else ()


def _choices_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[Any]:
    """What the annotations allow at a location of pydantic's, branches of unions included."""
    choices: list[Any] = [kind]
    for part in loc:
        following: list[Any] = []
        for choice in choices:
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                if part in _keys(choice):
                    following += _alternatives(_keys(choice)[str(part)])
                elif part in (*_kind_of_model(choice), choice.__name__):
                    following.append(choice)
            elif typing.get_origin(choice) in (dict, Mapping):
                following += _alternatives(typing.get_args(choice)[1])
            elif typing.get_origin(choice) in (list, tuple, Sequence):
                following += [a for argument in typing.get_args(choice) for a in _alternatives(argument)]
        choices = following
    return choices


def _models_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    return [choice for choice in _choices_at(kind, loc) if isinstance(choice, type) and issubclass(choice, BaseModel)]


def _kinds_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    return sorted({name for model in _models_at(kind, loc) for name in _kind_of_model(model)})
