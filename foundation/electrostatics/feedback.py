"""Long range inside the network: the potential and field of the charges change the features they were read from.

Charges at the end of a network add their Coulomb energy to a sum of local terms. Here atoms also *answer* to distant
charges: their features, and with them every head, depend on the potential and field that the rest of the system makes
where they stand.
"""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.electrostatics.sources import Potential
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.linear import ScaledLinear
from foundation.nn.readout import Perceptron

__all__ = ["FeedbackConfig", "FieldFeedback"]

POTENTIAL_SCALE = 2.0
"""V. Potentials of the charges of organic molecules and of water vary by about this from atom to atom."""
FIELD_SCALE = 1.0
"""V/Å. The same for fields."""


class FeedbackConfig(Config):
    """Let features depend on the potential and field of the charges read from them.

    Attributes:
        rounds: How often charges are read, their potential found, and the features changed.
        hidden: Width of the networks that change them.
    """

    rounds: int = Field(1, ge=1, le=3)
    hidden: int = Field(32, ge=1)


class FieldFeedback(nn.Module):
    """One round. Scalars change by a network of scalars, φ and |E|²; vectors by E, degree 2 by E⊗E, both gated.

    Starts as the identity. Features of the other parity (0o, 1e, 2o) stay: φ and E are of the natural one.

    Args:
        config: Its size.
        layout: Of the features.
    """

    square: Float[Tensor, "m 3 3"]

    def __init__(self, config: FeedbackConfig, layout: FeatureLayout) -> None:
        super().__init__()
        channels = layout.natural_channels
        self.degree = min(layout.degree, 2)
        self.scalars = Perceptron(channels + 2, config.hidden, channels)
        self.gate = nn.Sequential(ScaledLinear(channels + 2, config.hidden, bias=True), nn.SiLU())
        self.gate_out = ScaledLinear(config.hidden, self.degree * channels)
        nn.init.zeros_(self.gate_out.weight)
        square = o3.wigner_3j(1, 1, 2, dtype=torch.float64) * 5**0.5
        self.register_buffer("square", square.permute(2, 0, 1).contiguous(), persistent=False)

    def forward(self, features: Features, potential: Potential) -> Features:
        """Give the features as the potential changes them.

        Args:
            features: Of the backbone, or of the round before.
            potential: Of the charges that were read from them, V and V/Å.
        """
        natural = features.natural
        strength = (potential.values / POTENTIAL_SCALE).to(natural.dtype)
        field = (potential.field / FIELD_SCALE).to(natural.dtype)
        inputs = torch.cat([features.scalars, strength[:, None], field.square().sum(1, keepdim=True)], dim=1)
        changes = [self.scalars(inputs)[:, None]]
        gates = self.gate_out(self.gate(inputs)).view(len(natural), self.degree, natural.shape[2])
        if self.degree >= 1:
            changes.append(field[:, :, None] * gates[:, :1])
        if self.degree >= 2:
            square = torch.einsum("mab,na,nb->nm", self.square.to(natural.dtype), field, field)
            changes.append(square[:, :, None] * gates[:, 1:2])
        change = torch.cat(changes, dim=1)
        rest = natural.shape[1] - change.shape[1]
        if rest:
            change = nn.functional.pad(change, (0, 0, 0, rest))
        return Features(natural + change, features.pseudo, features.layout)
