"""The union of objectives, and how their configurations become objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, assert_never

from pydantic import Field

from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.training.objectives.base import CLEAN_VIEW, Objective
from foundation.training.objectives.denoising import DenoisingConfig, DenoisingObjective
from foundation.training.objectives.local_charges import LocalChargesConfig, LocalChargesObjective
from foundation.training.objectives.masked_atoms import MaskedAtomsConfig, MaskedAtomsObjective
from foundation.training.objectives.supervised import SupervisedConfig, SupervisedObjective

AnyConfig = SupervisedConfig | LocalChargesConfig | DenoisingConfig | MaskedAtomsConfig
ObjectiveConfig = Annotated[DenoisingConfig | MaskedAtomsConfig, Field(discriminator="kind")]
"""What a recipe may list under `objectives`; supervised ones come from its `tasks`."""


def build_objectives(
    configs: Mapping[str, AnyConfig],
    *,
    model: FoundationModel,
    dataset_names: Sequence[str],
) -> tuple[Objective, ...]:
    """Make the objectives that train a model.

    Args:
        configs: By name.
        model: Must predict what they compare.
        dataset_names: In order of `dataset_index`.

    Raises:
        InputError: Nothing to train, something that the model does not predict, one property in two views, or
            two objectives that would overwrite each other's labels.
    """
    if not configs:
        raise InputError("nothing to train: give at least one task or objective")
    objectives = [_build(name, config, model, dataset_names) for name, config in configs.items()]
    problems = [
        f"'{objective.name}': the model has no head for '{objective.predicts}'; "
        f"it predicts: {', '.join(sorted(model.properties))}"
        for objective in objectives
        if objective.predicts not in model.properties
    ]
    makers: dict[str, str] = {}
    for objective in objectives:
        if not isinstance(objective, SupervisedObjective):
            maker = makers.setdefault(objective.predicts, objective.name)
            if maker != objective.name:
                problems.append(
                    f"'{objective.name}': '{maker}' makes the labels of '{objective.predicts}' already; allowed: one "
                    "such objective, whose `data` may list several data sets"
                )
                continue
        first = next(other for other in objectives if other.predicts == objective.predicts)
        if first.view != objective.view:
            problems.append(
                f"'{objective.name}': view '{objective.view}' of '{objective.predicts}', which '{first.name}' compares "
                f"in view '{first.view}'; give both one view"
            )
        corrupts = not isinstance(objective, SupervisedObjective | LocalChargesObjective)
        if objective.view == CLEAN_VIEW and corrupts:
            problems.append(f"'{objective.name}': view '{CLEAN_VIEW}' is the batch as loaded; name another")
    if problems:
        raise InputError(problems)
    return tuple(objectives)


def _build(
    name: str,
    config: AnyConfig,
    model: FoundationModel,
    dataset_names: Sequence[str],
) -> Objective:
    match config:
        case SupervisedConfig():
            return SupervisedObjective(name=name, config=config, dataset_names=dataset_names)
        case LocalChargesConfig():
            return LocalChargesObjective(name=name, config=config, dataset_names=dataset_names)
        case DenoisingConfig():
            return DenoisingObjective(name=name, config=config, cutoff=model.cutoff, dataset_names=dataset_names)
        case MaskedAtomsConfig():
            return MaskedAtomsObjective(
                name=name, config=config, elements=model.config.elements, dataset_names=dataset_names
            )
        case _:
            assert_never(config)
