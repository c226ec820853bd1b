"""Data sets that are stores already: here, or at an address.

A store carries the description that it was made by, so that a recipe names its place and nothing else.
"""

from __future__ import annotations

from typing import Any

from ase.data import chemical_symbols

from foundation.config import validate
from foundation.data.card import DatasetConfig, ResolvedDataset
from foundation.data.readers import read_isolated_atoms
from foundation.data.store import Store
from foundation.errors import InputError

__all__ = ["DESCRIPTION", "describe", "resolve_stored"]

DESCRIPTION = "description"
"""Under this key a store's metadata hold what `describe` gives."""
_OWN = {"store", "split", "weight"}
_OF_ITS_MAKING = {"files", "isolated_atoms", "isolated_atoms_file", "checksums_skipped", "name", "store"}


def describe(dataset: ResolvedDataset) -> dict[str, Any]:
    """What a store has to say of itself, JSON values: everything but where its sources lay.

    Raises:
        InputError: The energies of isolated atoms cannot be read.
    """
    description = dataset.model_dump(mode="json", exclude=_OF_ITS_MAKING)
    energies = read_isolated_atoms(dataset)
    if energies:
        values = {chemical_symbols[number]: energy for number, energy in energies.items()}
        description["isolated_atoms"] = {"values": values, "unit": "eV"}
    return description


def resolve_stored(config: DatasetConfig, *, name: str | None) -> ResolvedDataset:
    """The description of a store that a recipe names by `store:`; the recipe may divide it otherwise.

    Args:
        config: The recipe's entry.
        name: What the recipe calls it.

    Raises:
        InputError: No store is there, it carries no description, or the recipe states facts that the store settles.
    """
    assert config.store is not None
    called = name or config.store
    own = config.model_dump(mode="json", exclude_unset=True)
    settled = sorted(key for key, value in own.items() if key not in _OWN and value is not None)
    if settled:
        allowed = ", ".join(sorted(_OWN - {"store"}))
        raise InputError(
            [f"data '{called}': {key}: a store has settled it; allowed beside store: {allowed}" for key in settled]
        )
    metadata = Store.read_facts(config.store)["metadata"]
    description = metadata.get(DESCRIPTION)
    if description is None:
        raise InputError(
            f"data '{called}': store: '{config.store}' carries no description; allowed: stores that "
            "`foundation data prepare` made"
        )
    facts = {
        "isolated_atoms": None,
        **description,
        "name": called,
        "files": (),
        "isolated_atoms_file": None,
        "checksums_skipped": False,
        "store": config.store,
    }
    if "split" in own:
        facts["split"] = own["split"]
    return validate(ResolvedDataset, facts, where=f"data '{called}': description of the store '{config.store}'")
