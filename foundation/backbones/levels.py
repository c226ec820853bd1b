"""Batches of several levels of theory, for backbones whose weights depend on it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foundation.data.graph import AtomGraph, some_graphs
from foundation.nn.features import Features
from foundation.nn.gather import take_rows

__all__ = ["level_by_level"]


def level_by_level(graph: AtomGraph, features_of: Callable[[AtomGraph], Features]) -> Features:
    """Features of a batch from those of its levels of theory, one after the other.

    Args:
        graph: A batch.
        features_of: Gives the features of a batch with one level of theory.
    """
    naturals, pseudos, places = [], [], []
    of_atoms = take_rows(graph.level_index, graph.graph_index)
    for level in torch.unique(graph.level_index):
        features = features_of(some_graphs(graph, graph.level_index == level))
        naturals.append(features.natural)
        pseudos.append(features.pseudo)
        places.append((of_atoms == level).nonzero()[:, 0])
    order = torch.cat(places).argsort()
    natural, pseudo = take_rows(torch.cat(naturals), order), take_rows(torch.cat(pseudos), order)
    return Features(natural, pseudo, features.layout)
