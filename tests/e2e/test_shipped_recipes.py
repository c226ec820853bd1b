"""Every shipped recipe takes real training steps on a few of its structures, with a tiny model of every backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundation.backbones import EquivariantConfig
from foundation.cli import main
from foundation.data.card import load_card
from foundation.recipe import Recipe, RecipeStart, load_recipe
from foundation.resources import recipes_dir

PARTS = ("base", "backbones/")
NAMES = [path.relative_to(recipes_dir()).with_suffix("").as_posix() for path in sorted(recipes_dir().rglob("*.yaml"))]
FAST = {
    "equivariant": ("quickstart", "finetune/energies_forces", "tasks/joint", "tasks/som"),
    "visnet": ("tasks/joint", "tasks/som"),
}
RECIPES = [
    pytest.param(name, backbone, marks=() if name in fast else (pytest.mark.slow,), id=f"{name}-{backbone}")
    for backbone, fast in FAST.items()
    for name in NAMES
    if not name.startswith(PARTS) and name != "finetune/continue"  # it needs a model: a test of its own
    if backbone == "equivariant" or name != "quickstart"  # nothing else has features that tell mirror images apart
]
LIMIT = 24


def small_backbone(recipe: Recipe, kind: str) -> list[str]:
    """Overrides that make the backbone tiny, of its own kind or of another."""
    backbone = recipe.model.backbone
    if kind == "visnet":
        size = f"cutoff: {backbone.cutoff}, channels: 8, num_layers: 1, num_heads: 2, num_basis: 8"
        return [f"model.backbone={{kind: visnet, {size}}}"]
    assert isinstance(backbone, EquivariantConfig)
    return [
        "model.backbone.channels=8",
        f"model.backbone.pseudo_channels={min(4, backbone.pseudo_channels)}",
        "model.backbone.num_layers=1",
        "model.backbone.radial_width=16",
    ]


def small(recipe: Recipe, own_file: Path, *, backbone: str = "equivariant") -> list[str]:
    """Overrides that leave a recipe as it is but for size and backbone."""
    overrides = [
        *small_backbone(recipe, backbone),
        "trainer={max_epochs: 1, limit_train_batches: 2, check_val_every_n_epoch: 1, enable_progress_bar: false}",
        "schedule.warmup_steps=0",
        "report=false",
    ]
    for name, dataset in recipe.data.items():
        if dataset.card != "embedded/gfn2":  # the first of its molecules have no stereocentre
            overrides.append(f"data.{name}.limit={LIMIT}")
        if dataset.card is None:
            overrides.append(f"data.{name}={{source: {own_file}, level_of_theory: EMT, charge: 0, spin: 1}}")
        card = None if dataset.card is None else load_card(dataset.card)
        if card is None or card.split is None or card.split.by != "given":
            overrides.append(f"data.{name}.split={{by: random, train: 12, val: 2, test: 2, folds: null, fold: null}}")
        else:
            overrides.append(f"data.{name}.split={{train: 8, val: 2, test: null}}")
    return overrides


@pytest.mark.slow
def test_training_goes_on_from_a_model(own_file: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    start = load_recipe("finetune/energies_forces")
    assert main(["train", "finetune/energies_forces", "--out", str(first), *small(start, own_file), "init=null"]) == 0
    recipe = load_recipe("finetune/continue", overrides=(f"init.from={first}",))
    overrides = [*small(recipe, own_file), f"init.from={first}"]
    assert main(["train", "finetune/continue", "--out", str(second), *overrides]) == 0
    summary = json.loads((second / "summary.json").read_text(encoding="utf-8"))
    assert any(weight.startswith("heads.") for weight in summary["init"]["loaded"])


@pytest.mark.parametrize(("name", "backbone"), RECIPES)
def test_a_shipped_recipe_trains(
    name: str,
    backbone: str,
    own_file: Path,
    shared_data: Path,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    recipe = load_recipe(name)
    overrides = small(recipe, own_file, backbone=backbone)
    if recipe.init is not None and isinstance(recipe.init.source, RecipeStart):
        start = load_recipe(recipe.init.source.recipe, overrides=recipe.init.source.overrides)
        inner = [*recipe.init.source.overrides, *small(start, own_file, backbone=backbone)]
        overrides.append(f"init.from.overrides={json.dumps(inner)}")
    assert main(["train", name, "--out", str(tmp_path / "run"), *overrides]) == 0
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    learnt = {(dataset, task.property) for task in recipe.tasks.values() for dataset in task.data}
    judged = {(dataset, prop) for datasets in evaluation.values() for dataset in datasets for prop in datasets[dataset]}
    optional = {("gfn2", "handedness")}
    assert learnt - optional <= judged, "every task is judged on held-back structures"
    if isinstance(recipe.init and recipe.init.source, RecipeStart):
        summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
        assert all(weight.startswith("backbone.") for weight in summary["init"]["loaded"])
        assert (tmp_path / "run" / "pretrain" / "model" / "model.safetensors").is_file()
