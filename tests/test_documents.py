"""The documents' YAML is what a recipe may say: it parses, its numbers are numbers, its sections are accepted."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foundation.config import merge, parse_yaml, resolve_extends, validate
from foundation.heads.charges import ChargesConfig
from foundation.recipe import Recipe
from foundation.resources import recipes_dir

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("slurm/*.md"),
        *REPOSITORY.glob("benchmarks/*.md"),
        *REPOSITORY.glob("benchmarks/*/*.md"),
        *REPOSITORY.glob("foundation/data/embedded/*.md"),
        *REPOSITORY.glob("data_cards/**/*.md"),
    ]
)
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(\w+: \{[^`]*\})`")
MEANT_AS_NUMBER = re.compile(r"[-+]?[\d.][\d_.,' ]*(?:[eE][-+]?\d+)?")
COMPLETION = """
extends: [base, backbones/xs]
data:
  mine:
    source: my.xyz
    level_of_theory: PBE/def2-SVP
    charge: 0
    spin: 1
    properties: {energy: {key: energy, unit: eV}, forces: {key: forces, unit: eV/Å}}
tasks:
  energy: {property: energy, data: [mine]}
"""
"""What the parts of recipes that the documents show are laid on, to be whole."""


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def shown_yaml(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield where it stands and what it says: of every block, and of every section that is shown within a sentence."""
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        where = f"{name_of(path)}:{line_of(text, found.start())}"
        yield where, parse_yaml(found.group(1), where=where)
    for found in INLINE.finditer(text):
        if found.group(1).partition(":")[0] not in Recipe.model_fields or "…" in found.group(1):
            continue
        where = f"{name_of(path)}:{line_of(text, found.start())}"
        yield where, parse_yaml(found.group(1), where=where)


def texts_in(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for value in data.values():
            yield from texts_in(value)
    elif isinstance(data, list):
        for value in data:
            yield from texts_in(value)
    elif isinstance(data, str):
        yield data


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("documents") / "completion.yaml"
    path.write_text(COMPLETION, encoding="utf-8")
    return resolve_extends(path, search=recipes_dir())


def test_the_documents_show_yaml() -> None:
    assert sum(1 for path in DOCUMENTS for _ in shown_yaml(path)) > 15


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_yaml_of_the_documents_is_accepted(path: Path, completion: dict[str, Any]) -> None:
    for where, data in shown_yaml(path):
        numbers = [text for text in texts_in(data) if MEANT_AS_NUMBER.fullmatch(text)]
        assert not numbers, f"{where}: read as text, not as numbers: {numbers}"
        model = data.get("model")
        if isinstance(model, dict) and "kind" in model:  # the charge model of a head, which is called the same
            validate(ChargesConfig, data, where=where)
            continue
        fragment = {key: value for key, value in data.items() if key != "extends"}
        validate(Recipe, merge(completion, fragment), where=where)


def test_the_reference_of_options_is_what_the_classes_say() -> None:
    found = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "make_recipe_reference.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    stored = module.PAGE.read_text(encoding="utf-8")
    assert module.Reference().page() == stored, "run: python docs/make_recipe_reference.py"
