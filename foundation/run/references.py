"""Reference energies of a model that starts from another and meets elements that the other did not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from foundation.checkpoint import InitReport
from foundation.data.graph import AtomGraph
from foundation.elements import element_names
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES
from foundation.scaling import complete_references, has_references

__all__ = ["complete_carried_references"]


@torch.no_grad()
def complete_carried_references(
    model: FoundationModel,
    source: FoundationModel,
    graphs: Sequence[AtomGraph],
    *,
    report: InitReport,
    isolated_atoms: Mapping[str, Mapping[int, float]],
) -> None:
    """Give elements that are new to a level of theory references that belong to those that came with the weights.

    Those that the source had stay as they were, so that it is still reproduced. Energies of isolated atoms that the new
    data state are taken; all others are fitted to what the source's references leave of the new labels. Elements of a
    level of theory that is new have theirs from the new data alone, and are not touched.

    Args:
        model: Initialised from `source`, its scaling measured on the new data before; changed in place.
        source: What it started from.
        graphs: Labelled structures of the new data.
        report: What was carried over.
        isolated_atoms: Of the new data: level -> atomic number -> eV.
    """
    carried = {*report.loaded, *(one.name for one in report.extended)}
    shared = [level for level in model.config.levels if level in source.config.levels]
    for name in model.scaling.names:
        if f"scaling.references_{name}" not in carried or not has_references(PROPERTIES[name]):
            continue
        table = model.scaling.references(name)
        known = table.clone()
        for level in shared:
            row = known[model.config.levels.index(level)]
            theirs = source.scaling.references(name)[source.config.levels.index(level)]
            given = isolated_atoms.get(level, {}) if name == "energy" else {}
            fresh = [z for z in model.config.elements if z not in given and bool(theirs[z].isnan())]
            row[fresh] = torch.nan
        completed, fitted = complete_references(graphs, name, known)
        table.copy_(completed)
        if name != "energy":
            continue
        for index, numbers in fitted.items():
            level = model.config.levels[index]
            model.scaling.provenance[level] += (
                f"; {element_names(numbers)} fitted beside these by ridge least squares on new labels"
            )
