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


SELF_EVIDENT = {"CrossEntropyConfig.label_smoothing"}


@pytest.mark.parametrize("options", [[], ["--card"]])
def test_every_key_is_described(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", *options]) == 0
    schema = json.loads(capsys.readouterr().out)
    objects = {"": schema, **schema["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, one in objects.items()
        for key, value in one.get("properties", {}).items()
        if not value.get("description") and f"{name}.{key}" not in SELF_EVIDENT
    ]
    assert not silent, f"say what these are under `Attributes:` of their class: {silent}"
    assert objects["SplitConfig"]["properties"]["seed"]["description"] == "Decides the draw."


def test_descriptions_follow_names_in_files_and_bases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    assert definitions["InitConfig"]["properties"]["from"]["description"].startswith("A run directory, a model")
    assert definitions["NumberField"]["properties"]["key"]["description"] == "Its name in the file."
    assert definitions["HuberConfig"]["properties"]["kind"]["description"].startswith("Huber loss of the residual")


def test_the_help_says_how_an_editor_finds_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--help"]) == 0
    assert "# yaml-language-server: $schema=recipe.schema.json" in capsys.readouterr().out


def _branches(section: dict, name: str) -> list[dict]:
    return section["properties"][name]["anyOf"]
