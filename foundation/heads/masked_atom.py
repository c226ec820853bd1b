"""Which element a hidden atom is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import Invariants, Perceptron


class MaskedAtomConfig(Config):
    """Logits over the model's elements.

    Attributes:
        hidden: Width of the readout.
    """

    kind: Literal["masked_atom"] = "masked_atom"
    hidden: int = Field(default=64, ge=1)

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("masked_element",)


class MaskedAtomHead(Head):
    """`[atoms, elements]` logits, in the order of the model's elements."""

    reads_pseudo = False
    normalised = False

    def __init__(self, config: MaskedAtomConfig, layout: FeatureLayout, *, num_elements: int) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.invariants = Invariants(layout)
        self.readout = Perceptron(self.invariants.size, config.hidden, num_elements, num_levels=layout.num_levels)

    def forward(self, features: Features, _graph: AtomGraph) -> dict[str, Tensor]:
        return {"masked_element": self.readout(self.invariants(features), features.level)}
