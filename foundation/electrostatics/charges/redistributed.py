"""Charges read from features; what they miss of the total charge is shared out by a learnt softness."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import MAXIMUM_ATOMIC_NUMBER, AtomGraph
from foundation.electrostatics.charges.distribution import ChargeModel, Distribution
from foundation.electrostatics.charges.electronegativity import pauling_electronegativities
from foundation.electrostatics.sources import Sources
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import take_rows
from foundation.nn.readout import GatedReadout, Perceptron, sum_atoms

__all__ = ["Redistributed", "RedistributedConfig", "share_out"]

CHARGE_PER_ELECTRONEGATIVITY = 0.3
"""e for each unit of Pauling's scale: water then starts near 0.12 e on each hydrogen atom, NaCl near 0.33 e."""
MINIMUM_SOFTNESS = 1e-3


class RedistributedConfig(Config):
    """Charges q = q̃ + f (Q - Σq̃) / Σf, with q̃ and f > 0 read from the features of each atom.

    What is missing is shared out over the whole graph, however far apart its parts are: two neutral molecules at a
    distance would charge each other. So training keeps it small beside everything else that it learns, which costs
    little: q̃ and q̃ plus a multiple of f are the same charges.

    Attributes:
        locality: Weight of that loss (`foundation.training.objectives.local_charges`) in models with electrostatics; 0
            for none. At 1 its gradients, which grow with the number of atoms, are all that clipping leaves.
        start: What q̃ is before anything is learnt: `zero`, or `electronegativity`, by the element. None: `zero` where
            labels tell the charges, `electronegativity` where they are learnt from energies alone, which has to start
            from something: an energy quadratic in charges has no slope where all of them are zero.
    """

    kind: Literal["redistributed"] = "redistributed"
    start: Literal["zero", "electronegativity"] | None = None
    locality: float = Field(default=0.1, ge=0)


class Redistributed(ChargeModel):
    """Charges and atomic dipoles from features alone: the cheapest model, of any size of structure."""

    begin: Float[Tensor, " numbers"]

    def __init__(
        self, config: RedistributedConfig, layout: FeatureLayout, *, hidden: int, atomic_dipoles: bool
    ) -> None:
        super().__init__()
        self.charge = Perceptron(layout.natural_channels, hidden, 2, num_levels=layout.num_levels)
        self.moment = GatedReadout(layout, degree=1, parity=-1, hidden=hidden) if atomic_dipoles else None
        begin = torch.zeros(MAXIMUM_ATOMIC_NUMBER + 1, dtype=torch.float64)
        if config.start == "electronegativity":
            electronegativity = pauling_electronegativities(MAXIMUM_ATOMIC_NUMBER + 1)
            begin = CHARGE_PER_ELECTRONEGATIVITY * (electronegativity[1] - electronegativity)
        self.register_buffer("begin", begin, persistent=False)

    def forward(self, features: Features, graph: AtomGraph, *, with_polarizability: bool = False) -> Distribution:
        assert not with_polarizability, "charges read from features do not respond to a field"
        raw = self.charge(features.scalars, features.level).double()
        softness = nn.functional.softplus(raw[:, 1]) + MINIMUM_SOFTNESS
        missing = self._missing(raw[:, 0], graph)
        charges = raw[:, 0] + self._begin(graph) + share_out(missing, softness, graph)
        dipoles = None if self.moment is None else self.moment(features).double()
        # What is asked to be nothing is for this readout to learn: a step of it moves the sum over many atoms far, and
        # features, which everything else is read from, would follow.
        told = self.charge(features.scalars.detach(), features.level).double()[:, 0]
        return Distribution(Sources(charges, dipoles), missing=self._missing(told, graph))

    def _begin(self, graph: AtomGraph) -> Float[Tensor, " atoms"]:
        return take_rows(self.begin.double(), graph.atomic_numbers)

    def _missing(self, read: Float[Tensor, " atoms"], graph: AtomGraph) -> Float[Tensor, " graphs"]:
        own = read + self._begin(graph)
        return graph.total_charge.double() - sum_atoms(own, graph.graph_index, graph.num_graphs)


def share_out(
    missing: Float[Tensor, " graphs"], softness: Float[Tensor, " atoms"], graph: AtomGraph
) -> Float[Tensor, " atoms"]:
    """What each atom gets of the charge that its graph misses, e: f (Q - Σq̃) / Σf.

    Args:
        missing: Q - Σq̃, e.
        softness: f > 0.
        graph: Its atoms.
    """
    weight = sum_atoms(softness, graph.graph_index, graph.num_graphs)
    return softness * take_rows(missing / weight, graph.graph_index)
