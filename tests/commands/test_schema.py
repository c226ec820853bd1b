"""The JSON Schema of recipes: files that leave something to what they extend are right in an editor too."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main


def test_a_mapping_without_its_kind_may_fit_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    text = capsys.readouterr().out
    definitions = json.loads(text)["$defs"]
    kinds = {definition["$ref"].rpartition("/")[2] for definition in _branches(definitions["ModelSection"], "backbone")}
    assert kinds == {"EquivariantConfig", "VisnetConfig"}
    assert '"oneOf"' not in text, "a backbone of nothing but a cutoff is both"


def _branches(section: dict, name: str) -> list[dict]:
    return section["properties"][name]["anyOf"]
