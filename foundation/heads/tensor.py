"""A general head: any property of the table whose value is a scalar, vector or matrix of either parity."""

from __future__ import annotations

from typing import Literal

import torch
from e3nn import o3
from pydantic import Field, field_validator
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.cartesian import CartesianMatrix
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import GatedReadout, Perceptron, sum_atoms
from foundation.properties import get_property


class TensorConfig(Config):
    """Read one property of any irreps.

    Attributes:
        property_name: Its name in the property table.
        hidden: Width of the readouts.
    """

    kind: Literal["tensor"] = "tensor"
    property_name: str
    hidden: int = Field(default=32, ge=1)

    @field_validator("property_name")
    @classmethod
    def _known(cls, name: str) -> str:
        get_property(name)
        return name

    @property
    def predicts(self) -> tuple[str, ...]:
        return (self.property_name,)


class TensorHead(Head):
    """Every irrep by a gated mixture of channels; graph properties are sums or, if intensive, means over atoms."""

    def __init__(self, config: TensorConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.property = get_property(config.property_name)
        irreps = o3.Irreps(self.property.irreps)
        self.reads_pseudo = any(irrep.p != (-1) ** irrep.l for _, irrep in irreps)
        self.readouts = nn.ModuleList()
        degrees = []
        for _, irrep in irreps:
            degrees.append(irrep.l)
            if irrep.l == 0 and irrep.p == 1:
                self.readouts.append(_ScalarReadout(layout, config.hidden))
            else:
                self.readouts.append(GatedReadout(layout, degree=irrep.l, parity=irrep.p, hidden=config.hidden))
        self.matrix = CartesianMatrix(tuple(degrees)) if self.property.form.endswith("matrix") else None

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        parts = [readout(features) for readout in self.readouts]
        if self.matrix is not None:
            values = self.matrix(parts)
        elif self.property.form == "vector":
            values = parts[0]
        else:
            values = parts[0][:, 0]
        if self.property.level == "graph":
            values = sum_atoms(values.double(), graph.graph_index, graph.num_graphs)
            if not self.property.extensive:
                counts = graph.num_atoms_per_graph.to(values.dtype)
                values = values / counts.reshape(-1, *[1] * len(self.property.shape))
        return {self.property.name: values}


class _ScalarReadout(nn.Module):
    """True scalars through a perceptron, `[atoms, 1]`."""

    def __init__(self, layout: FeatureLayout, hidden: int) -> None:
        super().__init__()
        self.perceptron = Perceptron(layout.natural_channels, hidden, 1, num_levels=layout.num_levels)

    def forward(self, features: Features) -> Tensor:
        return self.perceptron(features.scalars, features.level)


def isotropic(matrix: Tensor) -> Tensor:
    """A third of the trace, `[..., 3, 3] -> [...]`."""
    return torch.diagonal(matrix, dim1=-2, dim2=-1).mean(-1)
