"""Strict configuration: YAML in, frozen typed objects out, every mistake reported at once with its path.

Config classes live beside what they configure. Kinds are named by a `kind` field, never by an import path, so a
downloaded recipe cannot import or run anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from foundation.config_problems import describe_kind, describe_problems, nearest
from foundation.config_schema import described, descriptions
from foundation.errors import InputError

__all__ = [
    "Config",
    "apply_overrides",
    "dump_yaml",
    "load_yaml",
    "merge",
    "nearest",
    "parse_yaml",
    "resolve_extends",
    "to_dict",
    "validate",
]


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, nothing is coerced from text, nothing changes afterwards.

    Use tuples for lists and `Literal` `kind` fields for unions. From Python, pass values of the declared types;
    `validate` reads plain data (lists for tuples, strings for paths).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON Schema with a description of every key."""
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        own.update(described(own, descriptions(cls)))
        return schema


C = TypeVar("C", bound=BaseModel)


# ---------------------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: only true/false are booleans, `1e-3` is a number, `1:30` and dates are text."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or a YAML 1.1 reader would take for something else."""


_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_KEPT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_TYPES = (None, *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")))
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _TYPES}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
    _reader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _reader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "a key must be text or a number", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str, *, where: str) -> Any:
    """Read one YAML document; an empty one is None.

    Raises:
        InputError: The text is not YAML, holds a key twice or a tag that would build an object.
    """
    try:
        loader = _Loader(text)  # a SafeLoader with fewer types
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: No such file, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    data = parse_yaml(text, where=str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: got {describe_kind(data)}; allowed: a mapping of keys to values")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain data as YAML in the order given; `load_yaml` reads the same back."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


# --------------------------------------------------------------------------------------------------- merge and override


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`: mappings merge key by key, everything else (lists, null) replaces.

    Where both name a different `kind`, `over` replaces the mapping whole, since the options of one kind mean nothing to
    another.
    """
    if "kind" in base and "kind" in over and base["kind"] != over["kind"]:
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=3` in order. Values are YAML: `3`, `1e-3`, `true`, `[a, b]`, `{train: 10}`, `null`, text.

    A mapping is merged into what is there; a number in the path is an index where a list stands.

    Raises:
        InputError: No `=`, an empty part, a path through something that has no keys, or a value that is not YAML.
    """
    result = dict(data)
    for override in overrides:
        path, separator, text = override.partition("=")
        parts = path.strip().split(".")
        if not separator or not all(parts):
            raise InputError(f"override '{override}': allowed: key.subkey=value")
        if not text.strip():
            raise InputError(f"override '{override}': no value; write '{path}=null' to take a value away")
        value = parse_yaml(text, where=f"override '{override}'")
        result = _set(result, parts, value, where=f"override '{override}'", done="")
    return result


def _set(node: Any, parts: Sequence[str], value: Any, *, where: str, done: str) -> Any:
    if not parts:
        return merge(node, value) if isinstance(node, Mapping) and isinstance(value, Mapping) else value
    key, path = parts[0], f"{done}.{parts[0]}".lstrip(".")
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise InputError(f"{where}: '{path}' is no index of the list '{done}'; allowed: 0 to {len(node) - 1}")
        inner = _set(node[int(key)], parts[1:], value, where=where, done=path)
        return [*node[: int(key)], inner, *node[int(key) + 1 :]]
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        raise InputError(f"{where}: '{done}' is {node!r}, which has no key '{key}'")
    name = next((existing for existing in node if str(existing) == key), key)
    inner = _set(node.get(name), parts[1:], value, where=where, done=path)
    if "kind" in node and key == "kind" and node["kind"] != inner:
        return {"kind": inner}
    return {**node, name: inner}


def resolve_extends(path: Path | str, *, search: Path) -> dict[str, Any]:
    """Read a YAML file and everything that it extends.

    Args:
        path: A file, or a name under `search` (`quickstart`, `backbones/xs`), with or without `.yaml`.
        search: The folder of shipped recipes.

    Returns:
        The files of `extends` merged left to right, then the file itself; without the key `extends`.

    Raises:
        InputError: A file is missing or extends itself.
    """
    return _resolve(_find(str(path), search=search, beside=Path(), where="recipe"), search=search, trail=())


def _find(name: str, *, search: Path, beside: Path, where: str) -> Path:
    tried = [beside / name, beside / f"{name}.yaml", search / name, search / f"{name}.yaml"]
    for candidate in tried:
        if candidate.is_file():
            return candidate.resolve()
    shipped = sorted(p.relative_to(search).with_suffix("").as_posix() for p in search.rglob("*.yaml"))
    parts = Path(name).parts
    if search.name in parts:  # as from the root of a checkout: recipes/quickstart.yaml
        parts = parts[parts.index(search.name) + 1 :]
    close = nearest("/".join(parts).removesuffix(".yaml"), shipped)
    hint = f"; nearest shipped: '{close}'" if close else ""
    raise InputError(f"{where}: no file '{name}'{hint}; shipped: {', '.join(shipped)}")


def _resolve(path: Path, *, search: Path, trail: tuple[Path, ...]) -> dict[str, Any]:
    if path in trail:
        raise InputError(f"{path}: extends itself: {' -> '.join(p.stem for p in (*trail, path))}")
    data = load_yaml(path)
    parents = data.pop("extends", [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InputError(f"{path}: extends: got {parents!r}; allowed: a list of names under {search.name}/ or of paths")
    result: dict[str, Any] = {}
    for parent in parents:
        found = _find(parent, search=search, beside=path.parent, where=f"{path}: extends")
        result = merge(result, _resolve(found, search=search, trail=(*trail, path)))
    return merge(result, data)


# -------------------------------------------------------------------------------------------------------------- checks


def to_dict(config: BaseModel) -> dict[str, Any]:
    """Plain data that `validate` turns into an equal config: all defaults written out."""
    return config.model_dump(mode="json", by_alias=True)


def validate(kind: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """Check plain data against a config class.

    Args:
        kind: The class.
        data: As read from YAML or JSON.
        where: What to call the data in errors, usually the file.

    Raises:
        InputError: Every problem at once, each with its dotted path, what was got and what is allowed.
    """
    try:
        return kind.model_validate_json(json.dumps(data, default=_plain, allow_nan=True))
    except pydantic.ValidationError as error:
        raise InputError(describe_problems(kind, data, error, where=where)) from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise InputError(f"a value of type {type(value).__name__} cannot stand in a configuration: {value!r}")
