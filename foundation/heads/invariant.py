"""A graph's scalar from invariants only: blind to handedness by construction, for ablations."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import Invariants, Perceptron, sum_atoms
from foundation.properties import get_property


class InvariantConfig(Config):
    """Read a graph-level scalar, whatever its true parity, from features that a reflection leaves alone.

    A pseudoscalar read in this way is the same for both mirror images: at best chance. That is what it is for.

    Attributes:
        property_name: A graph-level scalar of the property table.
        hidden: Width of the readout.
    """

    kind: Literal["invariant"] = "invariant"
    property_name: str
    hidden: int = Field(default=32, ge=1)

    @field_validator("property_name")
    @classmethod
    def _graph_scalar(cls, name: str) -> str:
        prop = get_property(name)
        if prop.level != "graph" or prop.form != "scalar":
            raise ValueError(f"'{name}' is a {prop.level}-level {prop.form}; allowed: graph-level scalars")
        return name

    @property
    def predicts(self) -> tuple[str, ...]:
        return (self.property_name,)


class InvariantHead(Head):
    """Sum over atoms, or mean for intensive properties, of a perceptron on each atom's invariants."""

    reads_pseudo = False

    def __init__(self, config: InvariantConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.extensive = get_property(config.property_name).extensive
        self.invariants = Invariants(layout)
        self.readout = Perceptron(self.invariants.size, config.hidden, 1, num_levels=layout.num_levels)

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        atomic = self.readout(self.invariants(features), features.level)[:, 0].to(torch.float64)
        values = sum_atoms(atomic, graph.graph_index, graph.num_graphs)
        return {self.predicts[0]: values if self.extensive else values / graph.num_atoms_per_graph}
