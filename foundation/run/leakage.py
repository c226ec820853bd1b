"""Molecules that a model is tested on although it was trained on them: said aloud, as every error then looks better."""

from __future__ import annotations

from foundation.data.module import GraphDataModule

__all__ = ["seen_in_training"]

LARGEST = 500_000
"""Structures of a data set up to which names of groups are compared; reading them takes about a second then."""


def seen_in_training(data: GraphDataModule) -> list[str]:
    """Say which held-back molecules, or other groups of a data set, are in a training part as well.

    A molecule is told by its InChIKey without stereochemistry, wherever structures come from SMILES or SDF; a card may
    state another group. Groups of different data sets are compared where both are molecules.

    Args:
        data: Set up.
    """
    names = [name for name in data.dataset_names if len(data.stores[name]) <= LARGEST]
    training = {name: _groups(data, name, ("train",)) for name in names}
    lines = []
    for name in names:
        held_back = _groups(data, name, ("val", "test"))
        for other in names:
            if other != name and not (_is_molecule(data, name) and _is_molecule(data, other)):
                continue
            common = held_back & training[other]
            if not common:
                continue
            kind = "molecules" if _is_molecule(data, name) else "groups"
            where = "the training part" if other == name else f"the training part of data {other}"
            advice = "split: {by: group} keeps each on one side"
            if other != name:
                advice += ", with the same fractions and seed in both data sets"
            counts = f"{len(common)} of {len(held_back)} {kind}"
            lines.append(f"data {name}: {counts} in val and test are in {where} as well; {advice}")
    return lines


def _groups(data: GraphDataModule, name: str, splits: tuple[str, ...]) -> set[str]:
    groups = data.stores[name].groups
    rows = [int(row) for split in data.splits(name) if split in splits for row in data.graphs(name, split).rows]
    return {group for group in (groups[row] for row in rows) if group}


def _is_molecule(data: GraphDataModule, name: str) -> bool:
    group = data.resolved[name].group
    return group is None or group.by == "molecule"
