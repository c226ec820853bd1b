"""Pseudoscalars of a molecule: handedness, optical rotation. Read from odd features only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import OddReadout, sum_atoms


class PseudoscalarConfig(Config):
    """A graph-level value that changes its sign under reflection.

    Attributes:
        property_name: A property of irreps 0o.
        hidden: Width of the odd readout.
    """

    kind: Literal["pseudoscalar"] = "pseudoscalar"
    property_name: str = "handedness"
    hidden: int = Field(default=32, ge=1)

    @property
    def predicts(self) -> tuple[str, ...]:
        return (self.property_name,)


class PseudoscalarHead(Head):
    """Sum of odd atomic readouts: exactly zero for a molecule that is its own mirror image."""

    def __init__(self, config: PseudoscalarConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.readout = OddReadout(layout, hidden=config.hidden, out_features=1)

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        atomic = self.readout(features)[:, 0]
        return {self.predicts[0]: sum_atoms(atomic, graph.graph_index, graph.num_graphs)}
