"""Strict configuration: YAML types, merging, overrides, extends and the sentences of its errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from foundation.config import (
    Config,
    apply_overrides,
    dump_yaml,
    load_yaml,
    merge,
    parse_yaml,
    resolve_extends,
    to_dict,
    validate,
)
from foundation.errors import InputError


class Alpha(Config):
    kind: Literal["alpha"] = "alpha"
    channels: int = Field(default=3, gt=0)


class Beta(Config):
    kind: Literal["beta"] = "beta"
    width: float = 1.0
    shape: tuple[int, ...] = (1, 2)


class FromFile(Config):
    key: str


class Root(Config):
    backbone: Annotated[Alpha | Beta, Field(discriminator="kind")]
    heads: dict[str, Annotated[Alpha | Beta, Field(discriminator="kind")]] = Field(default_factory=dict)
    charge: int | FromFile = 0
    energies: dict[str, dict[int, float]] = Field(default_factory=dict)
    epochs: int = 1


keys = st.text("abcdefgh_", min_size=1, max_size=4)
text = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | text
trees = st.dictionaries(
    keys, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
)


def problems(data: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        validate(Root, data, where="r.yaml")
    return caught.value.problems


@given(trees)
def test_yaml_written_is_read_back_equal(tree: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(tree), where="test") == tree


@given(trees, trees)
def test_merging_keeps_every_key_and_the_upper_scalars(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(base, over)
    assert merged.keys() == base.keys() | over.keys()
    for key, value in over.items():
        if not isinstance(value, dict) or not isinstance(base.get(key), dict):
            assert merged[key] == value
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    assert merge({}, over) == over


@given(trees, st.lists(keys, min_size=1, max_size=3), st.integers() | st.booleans() | st.floats(allow_nan=False))
def test_an_override_sets_exactly_its_path(tree: dict[str, Any], path: list[str], value: float) -> None:
    text = dump_yaml({"value": value}).split(":", 1)[1].strip()
    node: Any = tree
    for part in path[:-1]:
        node = node.get(part) if isinstance(node, dict) else node
        if node is not None and not isinstance(node, dict):
            with pytest.raises(InputError):
                apply_overrides(tree, [f"{'.'.join(path)}={text}"])
            return
    result = apply_overrides(tree, [f"{'.'.join(path)}={text}"])
    node = result
    for part in path:
        node = node[part]
    assert node == value
    assert type(node) is type(value)
    assert {k: v for k, v in result.items() if k != path[0]} == {k: v for k, v in tree.items() if k != path[0]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        ("-.5", -0.5),
        ("3", 3),
        ("no", "no"),
        ("on", "on"),
        ("00:01:00:00", "00:01:00:00"),
        ("2020-01-01", "2020-01-01"),
        ("012", "012"),
        ("true", True),
        ("~", None),
        (".inf", math.inf),
        ("N", "N"),
    ],
)
def test_yaml_takes_text_for_text(text: str, value: object) -> None:
    assert parse_yaml(text, where="test") == value
    assert type(parse_yaml(text, where="test")) is type(value)


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "!!python/object/apply:os.system [ls]", "a: [", "{a: !!timestamp 2020}", "? [1, 2]\n: 3"]
)
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        parse_yaml(text, where="r.yaml")


def test_every_problem_is_reported_at_once_with_its_path() -> None:
    found = problems(
        {
            "backbone": {"kind": "beta", "widht": 3, "shape": [1, "a"]},
            "heads": {"q": {"kind": "alpha", "channels": "3"}, "p": {"kind": "alhpa"}},
            "charge": "x",
            "epohcs": 1,
        }
    )
    assert set(found) == {
        "r.yaml: backbone.widht: unknown key 'widht'; nearest: 'width'; allowed: kind, shape, width",
        "r.yaml: backbone.shape.1: got 'a' (text); allowed: a valid integer",
        "r.yaml: heads.q.channels: got '3' (text); allowed: a valid integer",
        "r.yaml: heads.p.kind: got 'alhpa'; nearest: 'alpha'; allowed: alpha, beta",
        "r.yaml: charge: got 'x' (text); allowed: a valid integer or an object",
        "r.yaml: epohcs: unknown key 'epohcs'; nearest: 'epochs'; allowed: backbone, charge, energies, epochs, heads",
    }


def test_the_branch_of_a_union_that_was_meant_is_the_one_reported() -> None:
    assert set(problems({"backbone": {"kind": "alpha"}, "charge": {"kye": "q"}})) == {
        "r.yaml: charge.key: missing; it has to be given",
        "r.yaml: charge.kye: unknown key 'kye'; nearest: 'key'; allowed: key",
    }


def test_a_missing_kind_names_the_kinds() -> None:
    assert problems({"backbone": {}}) == ("r.yaml: backbone.kind: missing; allowed: alpha, beta",)


@pytest.mark.parametrize("value", [True, "1", 1.5, None])
def test_nothing_is_coerced(value: object) -> None:
    assert len(problems({"backbone": {"kind": "alpha"}, "epochs": value})) == 1


def test_a_config_round_trips_through_yaml() -> None:
    data = {
        "backbone": {"kind": "beta", "width": 2, "shape": [3]},
        "energies": {"PBE": {1: -13.6}},
        "charge": {"key": "q"},
    }
    root = validate(Root, data, where="r.yaml")
    assert root == Root(backbone=Beta(width=2.0, shape=(3,)), energies={"PBE": {1: -13.6}}, charge=FromFile(key="q"))
    assert validate(Root, parse_yaml(dump_yaml(to_dict(root)), where="again"), where="again") == root


def test_another_kind_replaces_the_options_of_the_old_one() -> None:
    base = {"loss": {"kind": "huber", "delta": 1}, "seed": 0}
    assert merge(base, {"loss": {"kind": "mse"}}) == {"loss": {"kind": "mse"}, "seed": 0}
    assert merge(base, {"loss": {"delta": 2}})["loss"] == {"kind": "huber", "delta": 2}
    assert apply_overrides(base, ["loss.kind=mse"])["loss"] == {"kind": "mse"}


def test_overrides_reach_into_lists_and_merge_mappings() -> None:
    data = {"a": [1, {"b": 2}], "split": {"train": 5, "seed": 1}}
    assert apply_overrides(data, ["a.1.b=7", "split={train: 9}"]) == {
        "a": [1, {"b": 7}],
        "split": {"train": 9, "seed": 1},
    }
    assert data["split"]["train"] == 5


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", "seed=", "a.5=1", "seed.x=1", "seed=[1"])
def test_overrides_that_make_no_sense_are_refused(override: str) -> None:
    with pytest.raises(InputError, match="override"):
        apply_overrides({"seed": 0, "a": [1]}, [override])


def test_extends_merges_left_to_right_then_the_file_itself(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    (recipes / "backbones").mkdir(parents=True)
    (recipes / "base.yaml").write_text("seed: 0\noptimizer: {rate: 1, decay: 2}\n")
    (recipes / "backbones/xs.yaml").write_text("extends: base\noptimizer: {rate: 3}\nsize: xs\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: [base, backbones/xs]\noptimizer: {decay: 5}\n")
    assert resolve_extends(mine, search=recipes) == {"seed": 0, "optimizer": {"rate": 3, "decay": 5}, "size": "xs"}
    assert resolve_extends("backbones/xs", search=recipes)["size"] == "xs"


def test_extends_says_what_is_missing_or_circular(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: other\n")
    (tmp_path / "other.yaml").write_text("extends: base\n")
    with pytest.raises(InputError, match="extends itself: base -> other -> base"):
        resolve_extends("base", search=tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: bsae\n")
    with pytest.raises(InputError, match="no file 'bsae'; nearest shipped: 'base'"):
        resolve_extends("mine", search=tmp_path)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="allowed: a mapping"):
        load_yaml(tmp_path / "list.yaml")
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml")
