"""Which keys of a file a data set declares; everything else in the file is left alone."""

from __future__ import annotations

from foundation.data.card import ResolvedDataset
from foundation.data.fields import NumberField

__all__ = ["wanted_keys"]


def wanted_keys(dataset: ResolvedDataset) -> tuple[str, ...]:
    """Keys of labels, charge, spin, group, split and SMILES, as the card writes them."""
    keys = [field.key for field in dataset.properties.values()]
    keys += [stated.key for stated in (dataset.charge, dataset.spin) if isinstance(stated, NumberField)]
    if dataset.group is not None and dataset.group.key is not None:
        keys.append(dataset.group.key)
    keys += [key for key in (dataset.split_key, dataset.smiles_key) if key is not None]
    return tuple(dict.fromkeys(keys))
