"""What of a file is read: the keys that a data set declares, and the frames that a process is to convert."""

from __future__ import annotations

from collections.abc import Callable

from foundation.data.card import ResolvedDataset
from foundation.data.fields import NumberField

__all__ = ["Wanted", "everything", "wanted_keys"]

Wanted = Callable[[int], bool]
"""Number of a frame or row of a file, from 0 -> whether it is to be read; else it is passed over as fast as can be."""


def everything(number: int) -> bool:
    """Read the whole file."""
    del number
    return True


def wanted_keys(dataset: ResolvedDataset) -> tuple[str, ...]:
    """Keys of labels, charge, spin, group, split and SMILES, as the card writes them."""
    keys = [field.key for field in dataset.properties.values()]
    keys += [stated.key for stated in (dataset.charge, dataset.spin) if isinstance(stated, NumberField)]
    if dataset.group is not None and dataset.group.key is not None:
        keys.append(dataset.group.key)
    keys += [key for key in (dataset.split_key, dataset.smiles_key) if key is not None]
    return tuple(dict.fromkeys(keys))
