"""What every head is: `(Features, AtomGraph) -> dict[str, Tensor]`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.nn.features import Features


class Head(nn.Module, ABC):
    """Reads properties from features. It never sees the backbone.

    Attributes:
        predicts: Properties that it gives.
        normalised: Whether its values still have to be scaled to physical ones.
        reads_pseudo: Whether it needs the features of the other parity (0o, 1e, 2o); where no head does, they are not
            computed.
    """

    predicts: tuple[str, ...]
    normalised: bool = True
    reads_pseudo: bool = True

    @abstractmethod
    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        """Give every property in `predicts`: graph level `[graphs, *shape]`, atom level `[atoms, *shape]`."""
