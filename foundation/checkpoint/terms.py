"""Terms of the energy that have no tensors: nothing but their settings says that two models differ in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foundation.config import to_dict

if TYPE_CHECKING:
    from foundation.model import FoundationModel, ModelConfig

TERMS = ("repulsion", "dispersion")
"""Named in patterns as tensors are."""
_WHY = {
    "repulsion": "energies of atoms close to each other then change",
    "dispersion": "all energies then change; labels that include dispersion, or of another functional, need that",
}


def terms_of(*configs: ModelConfig) -> set[str]:
    """The terms that any of the models has."""
    return {name for config in configs for name in TERMS if getattr(config, name) is not None}


def changed_terms(config: ModelConfig, source: ModelConfig) -> dict[str, str]:
    """Term -> what it is and what it was, of those that differ."""
    return {
        name: f"{_settings(config, name)}, the source's {_settings(source, name)}"
        for name in TERMS
        if getattr(config, name) != getattr(source, name)
    }


def check_terms(changed: dict[str, str], *, named: Collection[str]) -> list[str]:
    """What is wrong with the terms of a model whose energies are to be the source's.

    Args:
        changed: As `changed_terms` gives it.
        named: The terms that the user has said may differ.
    """
    return [
        f"init: model.{name}: got {what}; it has no tensors, so nothing else would tell; allowed: the source's, "
        f"or name '{name}' under `reset` ({_WHY[name]})"
        for name, what in changed.items()
        if name not in named
    ]


@contextmanager
def without_repulsion(*models: FoundationModel, when: bool) -> Iterator[None]:
    """Within this context the models' energies lack the repulsion of nuclei, so that the rest can be compared."""
    kept = [model.repulsion for model in models]
    for model in models if when else ():
        model.repulsion = None
    try:
        yield
    finally:
        for model, repulsion in zip(models, kept, strict=True):
            model.repulsion = repulsion


def _settings(config: ModelConfig, name: str) -> str:
    term = getattr(config, name)
    if term is None:
        return "none"
    return ", ".join(f"{key}: {value}" for key, value in to_dict(term).items())
