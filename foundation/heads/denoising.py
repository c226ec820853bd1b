"""Vectors that point back from a displaced structure: the head of coordinate denoising."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.readout import GatedReadout


class DenoisingConfig(Config):
    """Predict the displacement that was added to every atom.

    Attributes:
        hidden: Width of the gates.
        scale: Size of the displacements to expect, Å; the readout works in units of it.
    """

    kind: Literal["denoising"] = "denoising"
    hidden: int = Field(default=32, ge=1)
    scale: float = Field(default=0.04, gt=0)

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("position_noise",)


class DenoisingHead(Head):
    """One displacement an atom, Å."""

    reads_pseudo = False
    normalised = False

    def __init__(self, config: DenoisingConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.scale = config.scale
        self.readout = GatedReadout(layout, degree=1, parity=-1, hidden=config.hidden)

    def forward(self, features: Features, _graph: AtomGraph) -> dict[str, Tensor]:
        return {"position_noise": self.readout(features) * self.scale}
