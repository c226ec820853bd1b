"""What every charge model is: features in, charges and atomic dipoles out, the total charge kept exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.electrostatics.sources import Sources
from foundation.nn.features import Features

__all__ = ["ChargeModel", "Distribution"]


@dataclass(frozen=True)
class Distribution:
    """How charge is distributed.

    Attributes:
        sources: Charges and atomic dipoles, float64.
        energy: eV; what it takes to distribute the charge so, interaction and external field included. None where the
            charges were not found by minimising an energy: theirs is that of their interaction then.
        polarizability: dP/dF, e²·Å²/eV; None where charges do not respond to a field or it was not asked for.
        missing: e; total charge less the charges that atoms have of themselves, which was shared out over all of them.
            None where nothing is shared out so.
    """

    sources: Sources
    energy: Float[Tensor, " graphs"] | None = None
    polarizability: Float[Tensor, "graphs 3 3"] | None = None
    missing: Float[Tensor, " graphs"] | None = None


class ChargeModel(nn.Module, ABC):
    """Distributes the total charge of each graph over its atoms."""

    @abstractmethod
    def forward(self, features: Features, graph: AtomGraph, *, with_polarizability: bool = False) -> Distribution:
        """Give charges that add up to the total charge of each graph.

        Args:
            features: Of the backbone.
            graph: A batch.
            with_polarizability: Whether the response to a field is wanted, of a model that has one.
        """
