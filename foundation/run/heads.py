"""Which heads a recipe's tasks and objectives need: those that they name, else what each property wants."""

from __future__ import annotations

from collections.abc import Mapping

from foundation.electrostatics.charges import RedistributedConfig
from foundation.errors import InputError
from foundation.heads import HeadConfig, check_head, default_head
from foundation.heads.atom_classification import AtomClassificationConfig
from foundation.heads.charges import ChargesConfig
from foundation.heads.invariant import InvariantConfig
from foundation.heads.pseudoscalar import PseudoscalarConfig
from foundation.heads.tensor import TensorConfig
from foundation.properties import get_property
from foundation.recipe import ModelSection, Recipe, TaskConfig
from foundation.training.objectives import DenoisingConfig, LocalChargesConfig, MaskedAtomsConfig, ObjectiveConfig

__all__ = ["heads_for", "local_charges", "with_charges"]

OF_CHARGES = ("dipole", "partial_charges", "born_charges")
"""Labels that tell charges."""
LOCAL_CHARGES = "local_charges"


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


def with_charges(heads: Mapping[str, HeadConfig], model: ModelSection) -> dict[str, HeadConfig]:
    """The heads, and one for charges where electrostatics is to find them without labels.

    Args:
        heads: Of tasks and objectives.
        model: The recipe's section.

    Raises:
        InputError: Nothing tells the charges, and the recipe does not say that they shall be latent; or it says so
            although a task tells them; or a head of charges that nothing asks for.
    """
    labelled = any("partial_charges" in head.predicts and head.kind == "charges" for head in heads.values())
    electrostatics = model.electrostatics
    latent = electrostatics is not None and electrostatics.latent
    if model.charges is not None and (labelled or not latent):
        raise InputError(
            "model.charges: the head of charges that no task tells; allowed with model.electrostatics: {latent: true} "
            f"and without a task on {', '.join(OF_CHARGES)}; a task's own head stands under tasks.NAME.head"
        )
    if electrostatics is None or (labelled and not latent):
        return dict(heads)
    if labelled:
        raise InputError(
            "model.electrostatics.latent: got true, but a task has labels that tell the charges; allowed: false"
        )
    if not latent:
        raise InputError(
            f"model.electrostatics: no task on {', '.join(OF_CHARGES)} with a head of kind 'charges' tells the "
            "charges; allowed: such a task, or latent: true, which learns them from energies and forces alone (a "
            "published method under a pending patent: see docs/electrostatics.md)"
        )
    return {**heads, "charges": _latent(model.charges or ChargesConfig())}


def local_charges(recipe: Recipe, heads: Mapping[str, HeadConfig]) -> dict[str, LocalChargesConfig]:
    """The objective that keeps charges local, by its name, where they interact and share out what they miss.

    Its structures are those of every task that learns anything from charges.

    Raises:
        InputError: Its name is a task's or another objective's.
    """
    head = next((head for head in heads.values() if isinstance(head, ChargesConfig)), None)
    if recipe.model.electrostatics is None or head is None:
        return {}
    if not isinstance(head.model, RedistributedConfig) or not head.model.locality:
        return {}
    if LOCAL_CHARGES in {**recipe.tasks, **recipe.objectives}:
        raise InputError(f"'{LOCAL_CHARGES}' is the name of the objective that keeps charges local; allowed: another")
    reads = {*head.predicts, "energy"}
    data = dict.fromkeys(
        dataset
        for task in recipe.tasks.values()
        if (get_property(task.property).derived_from or task.property) in reads
        for dataset in task.data
    )
    return {LOCAL_CHARGES: LocalChargesConfig(data=tuple(data), weight=head.model.locality)}


def _latent(head: ChargesConfig) -> ChargesConfig:
    """Charges that no label tells start from the elements' electronegativities, unless the recipe says otherwise.

    An energy quadratic in charges has no slope where all of them are zero. `start: zero` is for a model to go on from
    whose charges have learnt to be something else.
    """
    if isinstance(head.model, RedistributedConfig) and head.model.start is None:
        return head.model_copy(update={"model": head.model.model_copy(update={"start": "electronegativity"})})
    return head


def _property_of(objective: ObjectiveConfig) -> str:
    if isinstance(objective, DenoisingConfig):
        return "position_noise"
    return "masked_element" if isinstance(objective, MaskedAtomsConfig) else objective.property


def _name(head: HeadConfig) -> str:
    named_by_property = isinstance(head, TensorConfig | PseudoscalarConfig | InvariantConfig | AtomClassificationConfig)
    return head.property_name if named_by_property else head.kind
