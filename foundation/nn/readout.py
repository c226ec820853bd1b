"""Readouts from features: invariant scalars, gated equivariants and odd scalars."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import add_rows
from foundation.nn.linear import Level, ScaledLinear
from foundation.nn.radial import SILU_SECOND_MOMENT


class Perceptron(nn.Module):
    """One hidden SiLU layer beside a linear path; starts at zero, so that a fresh head predicts the mean."""

    def __init__(self, in_features: int, hidden: int, out_features: int, *, num_levels: int = 0) -> None:
        super().__init__()
        self.inner = ScaledLinear(in_features, hidden, bias=True, num_levels=num_levels)
        self.outer = ScaledLinear(hidden, out_features, bias=True, num_levels=num_levels)
        self.direct = ScaledLinear(in_features, out_features, num_levels=num_levels)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.direct.weight)

    def forward(
        self, inputs: Float[Tensor, "rows in_features"], level: Level | None = None
    ) -> Float[Tensor, "rows out_features"]:
        hidden = nn.functional.silu(self.inner(inputs, level)) * SILU_SECOND_MOMENT
        return self.outer(hidden, level) + self.direct(inputs, level)


class Invariants(nn.Module):
    """Scalars, squared norms of the natural tensors and squares of pseudoscalars, `[atoms, size]`."""

    def __init__(self, layout: FeatureLayout) -> None:
        super().__init__()
        self.degree = layout.degree
        self.size = layout.natural_channels * (1 + layout.degree)

    def forward(self, features: Features) -> Float[Tensor, "atoms size"]:
        parts = [features.scalars]
        for degree in range(1, self.degree + 1):
            parts.append(features.select(degree, (-1) ** degree).square().mean(1))
        return torch.cat(parts, dim=1)


class GatedReadout(nn.Module):
    """One irrep (l, parity) per atom: a mixture of its channels, weighted by gates that the scalars drive.

    Returns `[atoms, 2l+1]`; zero at the start. Raises ValueError if the features do not carry the irrep.
    """

    def __init__(self, layout: FeatureLayout, *, degree: int, parity: int, hidden: int) -> None:
        super().__init__()
        channels = layout.channels(degree, parity)
        if channels == 0:
            raise ValueError(f"the backbone's features ({layout.irreps}) hold no {degree}{'e' if parity == 1 else 'o'}")
        self.degree, self.parity = degree, parity
        self.gate = nn.ModuleList(
            [ScaledLinear(layout.natural_channels, hidden, bias=True, num_levels=layout.num_levels)]
        )
        self.gate_out = ScaledLinear(hidden, channels, num_levels=layout.num_levels)
        self.direct = nn.Parameter(torch.zeros(channels))
        self.scale = channels**-0.5
        nn.init.zeros_(self.gate_out.weight)

    def forward(self, features: Features) -> Float[Tensor, "atoms m"]:
        gates = nn.functional.silu(self.gate[0](features.scalars, features.level))
        weights = (self.gate_out(gates, features.level) + self.direct) * self.scale
        return (features.select(self.degree, self.parity) * weights[:, None]).sum(2)


class OddReadout(nn.Module):
    """Pseudoscalars per atom, odd under reflection by construction, `[atoms, out_features]`.

    Odd inputs (0o, 1o·1e, 2e·2o) are weighted by even gates and pass only through odd functions without biases.
    """

    def __init__(self, layout: FeatureLayout, *, hidden: int, out_features: int) -> None:
        super().__init__()
        if layout.pseudo_channels == 0:
            raise ValueError(
                f"the backbone's features ({layout.irreps}) hold no pseudo tower, so they cannot tell mirror images "
                "apart; allowed: a backbone with pseudo_channels above 0"
            )
        self.layout = layout
        thin = layout.pseudo_channels
        wide, levels = layout.natural_channels, layout.num_levels
        self.partners = nn.ModuleList(ScaledLinear(wide, thin, num_levels=levels) for _ in range(layout.degree))
        self.mix = ScaledLinear(thin * (layout.degree + 1), hidden, num_levels=levels)
        self.gate = ScaledLinear(wide, hidden, bias=True, num_levels=levels)
        self.out = ScaledLinear(hidden, out_features, num_levels=levels)

    def forward(self, features: Features) -> Float[Tensor, "atoms out_features"]:
        odd = [features.pseudoscalars]
        for degree, partner in enumerate(self.partners, start=1):
            natural = partner(features.select(degree, (-1) ** degree), features.level)
            odd.append((natural * features.select(degree, -((-1) ** degree))).mean(1))
        gates = nn.functional.silu(self.gate(features.scalars, features.level))
        return self.out(torch.tanh(self.mix(torch.cat(odd, dim=1), features.level) * gates), features.level)


def sum_atoms(
    values: Float[Tensor, "atoms *shape"], graph_index: Tensor, num_graphs: int
) -> Float[Tensor, "graphs *shape"]:
    """Sum over the atoms of each graph."""
    return add_rows(values, graph_index, size=num_graphs)
