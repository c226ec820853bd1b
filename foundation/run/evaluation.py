"""`foundation evaluate`: errors of a model on a data set of its run, a card, or a file with an inline card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foundation.checkpoint import load
from foundation.config import load_yaml, validate
from foundation.data.card import DatasetConfig, card_names
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.data.splits import SPLITS, SplitConfig
from foundation.elements import element_names
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.recipe import Recipe
from foundation.run.directory import RECIPE_FILE, read_recipe
from foundation.threads import set_threads
from foundation.training.evaluation import Report, evaluate

__all__ = ["evaluate_model"]

DEFAULT_BATCH = BatchConfig(max_structures=64, max_atoms=1024, max_edges=50_000)


def evaluate_model(
    model: str,
    *,
    data: str,
    card: Path | None,
    split: str,
    json_path: Path | None,
    device: str,
) -> dict[str, Report]:
    """Compare a model's predictions with labels.

    Args:
        model: A run directory, a model directory or a hub id.
        data: A data set of the run, a card's name, a card file, or a data file (with `card`).
        card: Inline card of the file.
        split: `train`, `val`, `test` or `all`. A file whose inline card states no split is taken whole.
        json_path: Where the errors go as JSON; None for nowhere.
        device: Where to compute.

    Returns:
        The part that was taken, `all` where that is the whole -> data set -> property -> errors.

    Raises:
        InputError: No such model, data or split; an element or level of theory that the model never saw; nothing
            labelled that it predicts.
    """
    if json_path is not None and not json_path.parent.is_dir():
        raise InputError(f"--json: {json_path.parent}: no such directory")
    set_threads(None)
    loaded = load(model, device=device)
    recipe = read_recipe(Path(model)) if (Path(model) / RECIPE_FILE).is_file() else None
    name, config = _find_data(data, card=card, recipe=recipe)
    whole = split == "all" or (card is not None and config.split is None)
    if whole:
        config = config.model_copy(update={"split": SplitConfig(by="random")})
    module = _open(name, config, loaded, batch=DEFAULT_BATCH if recipe is None else recipe.batch)
    graphs = module.graphs(name, "train" if whole else _as_split(split))
    evaluation = evaluate(loaded, {name: graphs}, batch=DEFAULT_BATCH, device=device)
    if not evaluation.metrics:
        labels = ", ".join(module.stores[name].properties) or "none"
        predicted = ", ".join(sorted(loaded.properties))
        raise InputError(f"data '{name}': labels: {labels}; the model predicts: {predicted}; none in common")
    if json_path is not None:
        text = json.dumps(evaluation.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        json_path.write_text(text + "\n", encoding="utf-8")
    return {"all" if whole else split: evaluation.metrics}


def _as_split(split: str) -> Any:
    assert split in SPLITS, split
    return split


def _find_data(data: str, *, card: Path | None, recipe: Recipe | None) -> tuple[str, DatasetConfig]:
    if card is not None:
        facts: dict[str, Any] = {**load_yaml(card), "source": data}
        return Path(data).stem, validate(DatasetConfig, facts, where=str(card))
    if recipe is not None and data in recipe.data:
        return data, recipe.data[data]
    if data in card_names() or data.endswith((".yaml", ".yml")):
        return data, DatasetConfig(card=data)
    of_run = f"a data set of the run ({', '.join(recipe.data)}), " if recipe is not None else ""
    if Path(data).is_file():
        raise InputError(f"data '{data}': a file needs --card with its keys, units, charge, spin and level of theory")
    raise InputError(
        f"data '{data}': allowed: {of_run}a card (`foundation data list`), a card file, or FILE with --card"
    )


def _open(name: str, config: DatasetConfig, model: FoundationModel, *, batch: BatchConfig) -> GraphDataModule:
    module = GraphDataModule({name: config}, cutoff=model.cutoff, batch=batch, seed=0, levels=model.config.levels)
    module.setup()
    unseen = sorted(set(module.elements) - set(model.config.elements))
    if unseen:
        names, known = element_names(unseen), element_names(model.config.elements)
        raise InputError(f"data '{name}': holds {names}, which the model has never seen; it knows {known}")
    return module
