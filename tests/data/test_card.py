"""Data cards and a recipe's data entries: what must be stated, what may be overridden, where files are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundation.commands.schema import card_schema
from foundation.config import to_dict, validate
from foundation.data.card import DatasetConfig, ResolvedDataset, card_names, load_card, resolve
from foundation.data.readers import read_isolated_atoms, read_records
from foundation.errors import InputError
from foundation.resources import data_cards_dir

FRAME = "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 total_charge=0\nH 0 0 0 0 0 1\nH 0 0 0.74 0 0 -1\n"


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.xyz"
    path.write_text(f"2\n{FRAME}" * 4, encoding="utf-8")
    return path


def inline(**changes: Any) -> dict[str, Any]:
    entry = {
        "source": "my.xyz",
        "format": "extxyz",
        "level_of_theory": "PBE/def2-SVP",
        "charge": 0,
        "spin": 1,
        "properties": {"energy": {"key": "energy", "unit": "eV"}, "forces": {"key": "forces", "unit": "eV/Å"}},
        "split": {"train": 2, "val": 1, "test": 1, "seed": 0},
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def resolved(entry: dict[str, Any]) -> ResolvedDataset:
    return resolve(validate(DatasetConfig, entry, where="recipe"), name="mine")


def test_the_entry_of_the_design_page_is_complete(own_file: Path):
    dataset = resolved(inline())
    assert dataset.files[0].path == own_file
    assert (dataset.level_of_theory, dataset.charge, dataset.spin, dataset.name) == ("PBE/def2-SVP", 0, 1, "mine")
    assert len(list(read_records(dataset))) == 4


@pytest.mark.usefixtures("own_file")
def test_a_resolved_data_set_survives_being_written_and_read():
    dataset = resolved(inline(charge={"key": "total_charge"}, source={"train": "my.xyz", "test": "my.xyz"}))
    assert validate(ResolvedDataset, to_dict(dataset), where="stored") == dataset
    assert [file.split for file in dataset.files] == ["train", "test"]


@pytest.mark.usefixtures("own_file")
def test_everything_that_is_missing_is_reported_at_once():
    with pytest.raises(InputError) as caught:
        resolved({"source": "my.xyz"})
    assert len(caught.value.problems) == 4
    assert "charge: missing" in str(caught.value)
    assert "spin: missing" in str(caught.value)
    assert "never assumed" in str(caught.value)


@pytest.mark.usefixtures("own_file")
@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"energy": {"key": "energy"}}, "states no unit"),
        ({"energy": {"key": "energy", "unit": "kcal/mole"}}, "unknown factor 'mole'"),
        ({"energy": {"key": "energy", "unit": "eV/Å"}}, "does not measure the same thing"),
        ({"energies": {"key": "energy", "unit": "eV"}}, "unknown property 'energies'"),
        ({"energy": {"key": "energy", "unit": "eV", "convention": "gradient"}}, "'gradient' does not apply"),
        ({"forces": {"key": "forces", "unit": "eV/Å", "components": ["xx"]}}, "allowed: xx, yy, zz, yz, xz, xy"),
        ({"energy": {"key": "energy", "unit": "eV", "klass": {}}}, "unknown key 'klass'"),
    ],
)
def test_a_label_whose_unit_or_convention_does_not_fit_is_refused(label: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        resolved(inline(properties=label))


@pytest.mark.usefixtures("own_file")
def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"absent\.xyz: no such file"):
        resolved(inline(source="absent.xyz"))


def test_an_unknown_card_names_the_nearest():
    with pytest.raises(InputError, match="nearest: 'rmd17/aspirin'"):
        resolve(DatasetConfig(card="rmd17/aspirine"))


def test_a_card_without_data_root_says_where_the_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOUNDATION_DATA", str(tmp_path))
    with pytest.raises(
        InputError, match=r"rmd17_aspirin_split01\.npz: no such file(.|\n)*github\.com/andersx/rmd17-npz"
    ):
        resolve(DatasetConfig(card="rmd17/aspirin"))


def test_a_recipe_overrides_single_facts_of_a_card():
    entry = {"card": "embedded/gfn2", "split": {"val": 0.2}, "properties": {"dipole": {"optional": True}}, "limit": 5}
    dataset = resolve(validate(DatasetConfig, entry, where="recipe"))
    assert (dataset.split.by, dataset.split.val, dataset.split.test) == ("group", 0.2, 0.1)
    assert dataset.properties["dipole"].optional
    assert dataset.properties["dipole"].key == "dipole"
    assert len(list(read_records(dataset))) == 5


def test_folds_replace_the_test_set_of_a_card():
    entry = {"card": "embedded/gfn2", "split": {"folds": 5, "fold": 1}}
    dataset = resolve(validate(DatasetConfig, entry, where="recipe"))
    assert (dataset.split.folds, dataset.split.test, dataset.split.val) == (5, None, 0.1)


def test_an_own_source_replaces_that_of_the_card_and_its_checksums(own_file: Path):
    entry = {"card": "embedded/gfn2", "source": str(own_file), "properties": {}}
    dataset = resolve(validate(DatasetConfig, entry, where="recipe"))
    assert dataset.files[0].path == own_file
    assert dataset.files[0].sha256 is None
    assert dataset.checksums_skipped


def test_a_file_other_than_the_card_was_written_for_is_refused(own_file: Path, monkeypatch: pytest.MonkeyPatch):
    card = {**inline(split=...), "description": "d", "licence": "MIT", "citation": [], "urls": [], "elements": ["H"]}
    card |= {"num_structures": 4, "checksums": {"my.xyz": "0" * 64}}
    card_file = own_file.with_name("card.yaml")
    card_file.write_text(json.dumps(card), encoding="utf-8")
    monkeypatch.setenv("FOUNDATION_DATA", str(own_file.parent))
    dataset = resolve(DatasetConfig(card=str(card_file)))
    with pytest.raises(InputError, match="is not the 0000"):
        list(read_records(dataset))


def test_isolated_atoms_come_from_a_file_or_a_table(own_file: Path):
    atoms = own_file.with_name("atoms.xyz")
    atoms.write_text("1\nenergy=-1 pbc=F\nH 0 0 0\n1\nenergy=-38 pbc=F\nC 0 0 0\n", encoding="utf-8")
    stated = resolved(inline(isolated_atoms={"values": {"H": -0.5}, "unit": "Ha"}))
    assert read_isolated_atoms(stated)[1] == pytest.approx(-13.605693)
    filed = resolved(inline(isolated_atoms={"source": "atoms.xyz", "key": "energy", "unit": "eV"}))
    assert read_isolated_atoms(filed) == {1: -1.0, 6: -38.0}
    assert read_isolated_atoms(resolved(inline())) == {}
    with pytest.raises(InputError, match="isolated_atoms: key 'E'"):
        read_isolated_atoms(resolved(inline(isolated_atoms={"source": "atoms.xyz", "key": "E", "unit": "eV"})))
    with pytest.raises(InputError, match="either source and key, or values"):
        resolved(inline(isolated_atoms={"unit": "eV"}))


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_fits_the_schema_and_says_what_a_user_must_know(name: str):
    card = load_card(name)
    assert card.description
    assert card.licence
    assert card.level_of_theory
    assert card.charge is not None
    assert card.spin is not None
    assert card.caveats
    assert card.checksums or str(card.source).startswith("package:")


def test_the_schema_that_editors_use_is_that_of_the_program():
    stored = json.loads((data_cards_dir() / "card.schema.json").read_text(encoding="utf-8"))
    assert stored == card_schema(), "run: foundation schema --card > data_cards/card.schema.json"


def test_shipped_cards_with_energies_say_whether_these_contain_dispersion():
    """Where a level names its correction, the field agrees; what no source states is `unknown`."""
    stated = {}
    for name in card_names():
        card = load_card(name)
        of_energies = {"energy", "forces", "stress"} & (card.properties or {}).keys()
        assert (card.dispersion is not None) == bool(of_energies), name
        if of_energies:
            stated[name] = (str(card.level_of_theory), card.dispersion)
    for name, (level, dispersion) in stated.items():
        corrected = any(part in level for part in ("D3", "D4", "MBD", "GFN2", "CCSD"))
        assert not corrected or dispersion == "included", name
        assert ("not stated by the source" in level) == (dispersion == "unknown"), name
    assert {dispersion for _, dispersion in stated.values()} == {"included", "lacking", "unknown"}
