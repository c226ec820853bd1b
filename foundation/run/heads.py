"""Which heads a recipe's tasks and objectives need: those that they name, else what each property wants."""

from __future__ import annotations

from collections.abc import Mapping

from foundation.errors import InputError
from foundation.heads import HeadConfig, check_head, default_head
from foundation.heads.atom_classification import AtomClassificationConfig
from foundation.heads.invariant import InvariantConfig
from foundation.heads.pseudoscalar import PseudoscalarConfig
from foundation.heads.tensor import TensorConfig
from foundation.properties import get_property
from foundation.recipe import TaskConfig
from foundation.training.objectives import DenoisingConfig, MaskedAtomsConfig, ObjectiveConfig

__all__ = ["heads_for"]


def heads_for(tasks: Mapping[str, TaskConfig], objectives: Mapping[str, ObjectiveConfig]) -> dict[str, HeadConfig]:
    """Give every head once, by name.

    Tasks that name a head come first; a property that none of those reads gets its default. Heads for one property are
    named by it, others by their kind.

    Raises:
        InputError: A head cannot read its task's property, or two tasks want different heads for one property.
    """
    heads: dict[str, HeadConfig] = {}
    problems: list[str] = []
    for name, task in tasks.items():
        if task.head is None:
            continue
        try:
            check_head(name, task.head, task.property)
        except InputError as error:
            problems += error.problems
            continue
        known = heads.setdefault(_name(task.head), task.head)
        if known != task.head:
            problems.append(f"tasks.{name}.head: differs from another task's head for the same properties")
    if problems:
        raise InputError(problems)
    wanted = [task.property for task in tasks.values()]
    wanted += [_property_of(objective) for objective in objectives.values()]
    for prop in wanted:
        base = get_property(prop).derived_from or prop
        if not any(base in head.predicts for head in heads.values()):
            head = default_head(prop)
            heads[_name(head)] = head
    return heads


def _property_of(objective: ObjectiveConfig) -> str:
    if isinstance(objective, DenoisingConfig):
        return "position_noise"
    return "masked_element" if isinstance(objective, MaskedAtomsConfig) else objective.property


def _name(head: HeadConfig) -> str:
    named_by_property = isinstance(head, TensorConfig | PseudoscalarConfig | InvariantConfig | AtomClassificationConfig)
    return head.property_name if named_by_property else head.kind
