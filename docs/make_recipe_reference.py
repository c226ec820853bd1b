"""Make docs/recipe_reference.md, every option of a recipe, from the configuration classes: their fields and docstrings.

python docs/make_recipe_reference.py            # writes the page; a test holds it to what the classes say
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from foundation.config import to_dict
from foundation.recipe import OWN_TRAINER_ARGUMENTS, Recipe

PAGE = Path(__file__).with_name("recipe_reference.md")
WIDTH = 128
INTRODUCTION = """\
Made by `python docs/make_recipe_reference.py` from the configuration classes; `foundation schema` gives the same to
editors. What the sections are for: [training.md](training.md), [data.md](data.md),
[electrostatics.md](electrostatics.md), [short_range.md](short_range.md). `NAME` stands for a name of your own.
An option without a default has to be stated, by the recipe or by what it extends; most of what a run needs stands in
`recipes/base.yaml`, whose values are not the defaults below. A run's own `recipe.yaml` has every value that was used.
"""
ENVIRONMENT = {
    "`FOUNDATION_DATA`": "folder of the published data sets whose files cards name ([data.md](data.md)); without it "
    "`../shared/data`",
    "`FOUNDATION_CACHE`": "where prepared data and fetched shards are kept; without it `~/.cache/foundation`",
    "`FOUNDATION_KERNELS`": "folder of the compiled kernels for CPUs, or `off` ([training.md](training.md))",
    "`FOUNDATION_MALLOC`": "`system` leaves glibc's allocator as it is; without it freed memory is kept, which makes "
    "training on CPUs 1.15 to 1.3 times faster (measured on two cores), and a process does not shrink before it ends",
    "`FOUNDATION_RANK_TIMEOUT`": "seconds after which ranks that get no further end ([training.md](training.md)); "
    "without it 600",
    "`FOUNDATION_SLURM`": "folder of the Slurm scripts, for `sweep.sbatch`, which starts `train.sbatch`; without it "
    "`slurm` where it was submitted",
    "`FOUNDATION_ENV`, `FOUNDATION_SITE`, `FOUNDATION_PREFIX`, `FOUNDATION_STAGE`": "of the Slurm scripts "
    "([slurm/README.md](../slurm/README.md))",
    "`OMP_NUM_THREADS`": "CPU threads, where the recipe does not say `threads`",
}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the configuration classes that an annotation names, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        if not isinstance(argument, FieldInfo):
            yield from models_in(argument)


def described(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """A class's own docstring before `Attributes:`, and what it and its bases say of each attribute."""
    attributes: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            _, _, listed = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
            entries = re.split(r"^(\w+): ", textwrap.dedent(listed), flags=re.MULTILINE)
            attributes |= dict(zip(entries[1::2], (" ".join(entry.split()) for entry in entries[2::2]), strict=True))
    text, _, _ = inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:\n")
    return text.strip(), attributes


def kind_of(model: type[BaseModel]) -> str | None:
    """The value of `kind` that means this class, if one does."""
    field = model.model_fields.get("kind")
    values = typing.get_args(field.annotation) if field is not None else ()
    return str(values[0]) if len(values) == 1 else None


class Reference:
    """The page, made by walking from the recipe down to every class below it."""

    def __init__(self) -> None:
        self.titles: dict[type[BaseModel], str] = {}

    def page(self) -> str:
        """All of it."""
        order = list(self._walk(Recipe, path=""))
        head = "\n".join(["# Every option of a recipe", "", *_wrapped(INTRODUCTION), ""])
        return "\n".join([head, *(self._section(model) for model in order), _trainer(), _environment()])

    def _walk(self, model: type[BaseModel], *, path: str) -> Iterator[type[BaseModel]]:
        """Give every class its title at the first place where it may stand."""
        if model in self.titles:
            return
        kind = kind_of(model)
        self.titles[model] = "The recipe" if not path else f"`{path}`" if kind is None else f"`{path}`: `{kind}`"
        yield model
        for name, field in model.model_fields.items():
            below = f"{path}.{field.alias or name}".lstrip(".")
            if typing.get_origin(_without_none(field.annotation)) is dict:
                below += ".NAME"
            for inner in models_in(field.annotation):
                yield from self._walk(inner, path=below)

    def _section(self, model: type[BaseModel]) -> str:
        text, attributes = described(model)
        lines = [f"## {self.titles[model]}", "", *_wrapped(text)]
        rows = []
        for name, field in model.model_fields.items():
            if name == "kind" and kind_of(model) is not None:
                continue
            if name not in attributes:
                raise ValueError(f"{model.__name__}: its docstring says nothing of '{name}' under Attributes")
            default = "required" if field.is_required() else _default(field)
            what = re.sub(r"\bNone\b", "null", attributes[name]).replace("|", "\\|").replace(" -> ", " → ")
            rows.append(f"| `{field.alias or name}` | {self._allowed(field)} | {default} | {what} |")
        if rows:
            lines += ["", "| option | allowed | default | what |", "|---|---|---|---|", *rows]
        return "\n".join([*lines, ""])

    def _allowed(self, field: FieldInfo) -> str:
        bounds = [bound for bound in map(_bound, field.metadata) if bound]
        text = self._type(field.annotation)
        return " ".join([text.removesuffix(", null"), *bounds]) + (", null" if text.endswith(", null") else "")

    def _type(self, annotation: Any) -> str:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            title = self.titles[annotation]
            return f"[{kind_of(annotation) or 'options'}](#{_anchor(title)})"
        if annotation is types.NoneType:
            return "null"
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Literal:
            return ", ".join(f"`{value}`" for value in arguments)
        if origin is typing.Annotated:
            metadata = [one for a in arguments[1:] for one in (a.metadata if isinstance(a, FieldInfo) else [a])]
            return " ".join([self._type(arguments[0]), *filter(None, map(_bound, metadata))])
        if origin in (typing.Union, types.UnionType):
            return ", ".join(dict.fromkeys(self._type(one) for one in arguments))
        if origin is tuple:
            inner = [self._type(one) for one in arguments if one is not Ellipsis]
            return f"list of {inner[0]}" if Ellipsis in arguments else f"list of {len(inner)}: {', '.join(inner)}"
        if origin is dict:
            return f"{self._type(arguments[0])} → {self._type(arguments[1])}"
        names = {bool: "true, false", int: "whole number", float: "number", str: "text", Any: "anything"}
        return names[annotation]


def _without_none(annotation: Any) -> Any:
    others = [one for one in typing.get_args(annotation) if one is not types.NoneType]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return others[0] if union and len(others) == 1 else annotation


def _bound(metadata: Any) -> str:
    """A bound of a number as text; other metadata say nothing."""
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    return " ".join(f"{sign} {value:g}" for name, sign in signs if (value := getattr(metadata, name, None)) is not None)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = to_dict(value)
        return f"`{given['kind']}`" if "kind" in given else "its own defaults"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"`[{', '.join(str(one) for one in value)}]`"
    if value in ("", {}):
        return "empty"
    return f"`{value}`"


def _anchor(title: str) -> str:
    """As GitHub makes them of headings."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _wrapped(text: str) -> list[str]:
    paragraphs = text.split("\n\n")
    lines: list[str] = []
    for paragraph in paragraphs:
        words = " ".join(paragraph.split())
        lines += ["", *textwrap.wrap(words, WIDTH, break_on_hyphens=False, break_long_words=False)]
    return lines[1:]


def _trainer() -> str:
    rows = [f"| `{name}` | {why} |" for name, why in OWN_TRAINER_ARGUMENTS.items()]
    text = "Any argument of `lightning.Trainer`, checked against its signature, but for these:"
    return "\n".join(["## `trainer`", "", text, "", "| refused | why |", "|---|---|", *rows, ""])


def _environment() -> str:
    rows = [f"| {name} | {what} |" for name, what in ENVIRONMENT.items()]
    return "\n".join(["## Environment variables", "", "| variable | what |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(Reference().page(), encoding="utf-8")
