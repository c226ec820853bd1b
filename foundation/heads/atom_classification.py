"""One logit an atom, such as whether an enzyme oxidises it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import take_rows
from foundation.nn.readout import Invariants, Perceptron, sum_atoms


class AtomClassificationConfig(Config):
    """Per-atom yes or no.

    Attributes:
        property_name: An atom-level classification property.
        hidden: Width of the readout.
        dropout: Share of invariants hidden while training.
    """

    kind: Literal["atom_classification"] = "atom_classification"
    property_name: str = "site_of_metabolism"
    hidden: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def predicts(self) -> tuple[str, ...]:
        return (self.property_name,)


class AtomClassificationHead(Head):
    """Logits from each atom's invariants and the mean invariants of its graph."""

    reads_pseudo = False
    normalised = False

    def __init__(self, config: AtomClassificationConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.invariants = Invariants(layout)
        self.dropout = nn.Dropout(config.dropout)
        self.readout = Perceptron(2 * self.invariants.size, config.hidden, 1, num_levels=layout.num_levels)

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        local = self.dropout(self.invariants(features))
        counts = graph.num_atoms_per_graph.to(local.dtype)[:, None]
        context = sum_atoms(local, graph.graph_index, graph.num_graphs) / counts
        both = torch.cat([local, take_rows(context, graph.graph_index)], dim=1)
        logits = self.readout(both, features.level)[:, 0]
        return {self.predicts[0]: logits}
