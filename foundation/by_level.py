"""Batches of several levels of theory, for models whose weights depend on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foundation.data.graph import AtomGraph, some_graphs
from foundation.nn.gather import take_rows
from foundation.properties import PROPERTIES

__all__ = ["level_by_level"]


def level_by_level(graph: AtomGraph, predict: Callable[[AtomGraph], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Predictions for a batch from those for its levels of theory, one after the other.

    Args:
        graph: A batch.
        predict: Predicts for a batch of one level of theory.
    """
    parts: list[dict[str, Tensor]] = []
    graphs, atoms = [], []
    for level in torch.unique(graph.level_index):
        chosen = graph.level_index == level
        parts.append(predict(some_graphs(graph, chosen)))
        graphs.append(chosen.nonzero()[:, 0])
        atoms.append(take_rows(chosen, graph.graph_index).nonzero()[:, 0])
    places = {"graph": torch.cat(graphs).argsort(), "atom": torch.cat(atoms).argsort()}
    return {
        name: take_rows(torch.cat([part[name] for part in parts]), places[PROPERTIES[name].level]) for name in parts[0]
    }
