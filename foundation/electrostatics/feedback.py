"""Long range inside the network: the field of the charges changes the features they were read from.

Charges at the end of a network add their Coulomb energy to a sum of local terms. Here atoms also *answer* to distant
charges: their vectors, and with them every head, depend on the field that the rest of the system makes where they
stand, as the induced dipoles of polarizable atoms do.

The answer is linear in the field (and, for features of degree 2, in its square), how strong the atom's surroundings
decide; scalars stay. Networks of potential and field fit dipeptides as well, but learn from them that charges shrink in
the field of hydrogen bonds, so that Born charges of water come out too small (`benchmarks/README.md`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from e3nn import o3
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.electrostatics.sources import Potential
from foundation.errors import InputError
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.linear import ScaledLinear

__all__ = ["FeedbackConfig", "FieldFeedback"]

FIELD_SCALE = 1.0
"""V/Å. Fields of the charges of organic molecules and of water vary by about this from atom to atom."""


class FeedbackConfig(Config):
    """Let features depend on the field of the charges read from them.

    Attributes:
        rounds: How often charges are read, their field found, and the features changed.
        hidden: Width of the network that says how strongly.
    """

    rounds: int = Field(1, ge=1, le=3)
    hidden: int = Field(32, ge=1)


class FieldFeedback(nn.Module):
    """One round: vectors change by E and degree 2 by E⊗E, channel by channel with strengths that the scalars decide.

    Starts as the identity. Features of the other parity (1e, 2o) stay: E is of the natural one.

    Args:
        config: Its size.
        layout: Of the features; degree 1 or more.
    """

    square: Float[Tensor, "m 3 3"]

    def __init__(self, config: FeedbackConfig, layout: FeatureLayout) -> None:
        super().__init__()
        channels = layout.natural_channels
        self.degree = min(layout.degree, 2)
        if self.degree == 0:
            raise InputError(
                "model.electrostatics.feedback: the field changes vectors, and the backbone's features hold scalars "
                "only; allowed: a backbone with degree 1 or more, or feedback: null"
            )
        self.gate = nn.ModuleList([ScaledLinear(channels, config.hidden, bias=True, num_levels=layout.num_levels)])
        self.gate_out = ScaledLinear(config.hidden, self.degree * channels, num_levels=layout.num_levels)
        nn.init.zeros_(self.gate_out.weight)
        square = o3.wigner_3j(1, 1, 2, dtype=torch.float64) * 5**0.5
        self.register_buffer("square", square.permute(2, 0, 1).contiguous(), persistent=False)

    def forward(self, features: Features, potential: Potential) -> Features:
        """Give the features as the field changes them.

        Args:
            features: Of the backbone, or of the round before.
            potential: Of the charges that were read from them; its field, V/Å, is used.
        """
        natural = features.natural
        field = (potential.field / FIELD_SCALE).to(natural.dtype)
        hidden = nn.functional.silu(self.gate[0](features.scalars, features.level))
        gates = self.gate_out(hidden, features.level).view(len(natural), self.degree, natural.shape[2])
        changes = [torch.zeros_like(natural[:, :1]), field[:, :, None] * gates[:, :1]]
        if self.degree >= 2:
            square = torch.einsum("mab,na,nb->nm", self.square.to(natural.dtype), field, field)
            changes.append(square[:, :, None] * gates[:, 1:2])
        change = torch.cat(changes, dim=1)
        rest = natural.shape[1] - change.shape[1]
        if rest:
            change = nn.functional.pad(change, (0, 0, 0, rest))
        return replace(features, natural=natural + change)
