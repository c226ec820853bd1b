"""Recipes: every shipped one parses, references are checked, and what a run stores means the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.backbones import EquivariantConfig
from foundation.config import dump_yaml, parse_yaml, validate
from foundation.errors import InputError
from foundation.heads import default_head
from foundation.recipe import Recipe, RecipeStart, load_recipe, recipe_name
from foundation.resources import recipes_dir
from foundation.run.directory import recipe_to_dict
from foundation.run.heads import heads_for

PARTS = ("base", "backbones/xxs", "backbones/xs", "backbones/s", "backbones/m", "backbones/l", "backbones/visnet")
SHIPPED = sorted(path.relative_to(recipes_dir()).with_suffix("").as_posix() for path in recipes_dir().rglob("*.yaml"))
WHOLE = [name for name in SHIPPED if name not in PARTS]

MINE = """
extends: [base, backbones/xs]        # names under recipes/, or paths; merged left to right, then this file
data:
  mine:
    source: my.xyz
    format: extxyz
    level_of_theory: PBE/def2-SVP
    charge: 0                        # or {key: total_charge}; stated, never assumed
    spin: 1                          # multiplicity 2S+1, or {key: …}
    properties:
      energy: {key: energy, unit: eV}
      forces: {key: forces, unit: eV/Å}
    split: {train: 900, val: 50, test: 50, seed: 0}
tasks:
  energy: {property: energy, data: [mine], weight: 1}
  forces: {property: forces, data: [mine], weight: 10}
trainer: {max_epochs: 200, max_time: "00:01:00:00"}
seed: 0
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The recipe of the README, as a file."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


NEEDED = {"finetune/continue": ("init.from=runs/mine",)}
"""What a shipped recipe does not decide for its user."""


def test_going_on_from_a_model_means_naming_it() -> None:
    with pytest.raises(InputError, match=r"init\.from"):
        load_recipe("finetune/continue")


def problems_of(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", WHOLE)
def test_every_shipped_recipe_parses_and_its_heads_fit(name: str) -> None:
    recipe = load_recipe(name, overrides=NEEDED.get(name, ()))
    assert recipe.description, "a recipe says what it is for"
    heads = heads_for(recipe.tasks, recipe.objectives)
    assert heads
    if recipe.init is not None and isinstance(recipe.init.source, RecipeStart):
        start = load_recipe(recipe.init.source.recipe, overrides=recipe.init.source.overrides)
        assert start.model.backbone == recipe.model.backbone, "what is pretrained has to fit what is fine-tuned"


def test_there_is_a_recipe_for_each_part_that_others_extend() -> None:
    assert set(PARTS) <= set(SHIPPED)


def test_the_shape_of_a_users_recipe(mine: Path) -> None:
    recipe = load_recipe(mine)
    assert recipe.trainer["max_epochs"] == 200
    assert recipe.tasks["forces"].weight == 10
    assert recipe.data["mine"].source == str(Path.cwd() / "my.xyz")
    assert isinstance(recipe.model.backbone, EquivariantConfig)


def test_a_resolved_recipe_means_the_same_when_read_back(mine: Path) -> None:
    recipe = load_recipe(mine, overrides=["data.mine.charge={key: total_charge}", "trainer.gradient_clip_val=1.5"])
    text = dump_yaml(recipe_to_dict(recipe))
    assert validate(Recipe, parse_yaml(text, where="again"), where="again") == recipe
    again = load_recipe("quickstart")
    text = dump_yaml(recipe_to_dict(again))
    assert validate(Recipe, parse_yaml(text, where="again"), where="again") == again


def test_a_cards_facts_are_not_hidden_by_defaults_in_the_stored_recipe() -> None:
    recipe = load_recipe("tasks/rmd17_aspirin")
    assert recipe_to_dict(recipe)["data"]["aspirin"] == {
        "card": "rmd17/aspirin",
        "split": {"train": 950, "val": 50},
    }


def test_a_misspelt_key_names_the_nearest(mine: Path) -> None:
    assert "optimizer.learning_rat: unknown key 'learning_rat'; nearest: 'learning_rate'" in problems_of(
        mine, "optimizer.learning_rat=0.1"
    )


def test_trainer_arguments_are_checked_against_lightning(mine: Path) -> None:
    text = problems_of(
        mine,
        "trainer.max_epoch=3",
        "trainer.max_steps=many",
        "trainer.callbacks=[a]",
        "trainer.max_time='1:00'",
        "optimizer.learning_rate=-1",
    )
    assert "trainer.max_epoch: unknown key 'max_epoch'; nearest: 'max_epochs'" in text
    assert "trainer.max_steps: got 'many'" in text
    assert "trainer.callbacks: cannot be set here" in text
    assert "trainer.max_time: got '1:00'; allowed: days:hours:minutes:seconds" in text
    assert "optimizer.learning_rate: got -1" in text, "all problems are reported at once"
    assert "trainer: trainer" not in text
    assert len(text.splitlines()) == 5, "a line each"


@pytest.mark.parametrize("value", ["10", "1:00", "[1]"])
def test_a_time_limit_is_explained(mine: Path, value: str) -> None:
    allowed = "allowed: days:hours:minutes:seconds, as in 00:01:00:00"
    assert problems_of(mine, f"trainer.max_time={value}").endswith(allowed)


def test_what_a_recipe_extends_is_no_override(mine: Path) -> None:
    for override in ("extends=[base]", "extends.0=base"):
        text = problems_of(mine, override)
        assert "extends: stands in a recipe file only; it cannot be overridden" in text
        assert "threads" not in text


def test_tasks_name_data_sets_that_exist(mine: Path) -> None:
    text = problems_of(mine, "tasks.energy.data=[mien]")
    assert "tasks.energy.data: got 'mien'; nearest: 'mine'" in text


def test_nothing_to_learn_is_an_error(mine: Path) -> None:
    assert "nothing would be learnt" in problems_of(mine, "tasks=null", "tasks={}")


def test_an_unknown_property_names_the_known_ones(mine: Path) -> None:
    assert "unknown property 'enrgy'; nearest: 'energy'; known properties:" in problems_of(
        mine, "tasks.energy.property=enrgy"
    )


def test_one_head_serves_a_property_and_its_derivatives(mine: Path) -> None:
    recipe = load_recipe(mine)
    assert heads_for(recipe.tasks, {}) == {"energy": default_head("energy")}


def test_a_head_of_many_properties_reads_its_tasks_own(mine: Path) -> None:
    recipe = load_recipe(
        mine, overrides=["tasks.pol={property: polarizability, data: [mine], head: {kind: tensor, hidden: 16}}"]
    )
    head = heads_for(recipe.tasks, {})["polarizability"]
    assert head.predicts == ("polarizability",)


def test_a_head_that_cannot_read_its_property_names_those_that_can(mine: Path) -> None:
    recipe = load_recipe(mine, overrides=["tasks.dipole={property: dipole, data: [mine], head: {kind: energy}}"])
    with pytest.raises(InputError, match=r"task 'dipole': head 'energy' cannot read property 'dipole'.*'charges'"):
        heads_for(recipe.tasks, {})


def test_runs_are_named_after_their_recipe() -> None:
    assert recipe_name("quickstart") == "quickstart"
    assert recipe_name("tasks/ag3") == "tasks-ag3"
    assert recipe_name("some/where/mine.yaml") == "mine"
