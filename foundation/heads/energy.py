"""Per-atom energies, summed; forces and stress follow by autograd (`foundation.derive`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import Perceptron, sum_atoms


class EnergyConfig(Config):
    """Energy of a graph as a sum over atoms.

    Attributes:
        hidden: Width of the readout.
    """

    kind: Literal["energy"] = "energy"
    hidden: int = Field(default=32, ge=1)

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("energy",)


class EnergyHead(Head):
    """Normalised atomic energies from true scalars, summed in float64."""

    reads_pseudo = False

    def __init__(self, config: EnergyConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.readout = Perceptron(layout.natural_channels, config.hidden, 1, num_levels=layout.num_levels)

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        atomic = self.readout(features.scalars, features.level)[:, 0].double()
        return {"energy": sum_atoms(atomic, graph.graph_index, graph.num_graphs)}
