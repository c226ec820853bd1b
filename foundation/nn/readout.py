"""Readouts from features: invariant scalars, gated equivariants and odd scalars."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import add_rows
from foundation.nn.linear import ScaledLinear
from foundation.nn.radial import SILU_SECOND_MOMENT


class Perceptron(nn.Module):
    """One hidden SiLU layer beside a linear path; starts at zero, so that a fresh head predicts the mean."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.inner = ScaledLinear(in_features, hidden, bias=True)
        self.outer = ScaledLinear(hidden, out_features, bias=True)
        self.direct = ScaledLinear(in_features, out_features)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.direct.weight)

    def forward(self, inputs: Float[Tensor, "rows in_features"]) -> Float[Tensor, "rows out_features"]:
        hidden = nn.functional.silu(self.inner(inputs)) * SILU_SECOND_MOMENT
        return self.outer(hidden) + self.direct(inputs)


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
        self.gate = nn.Sequential(ScaledLinear(layout.natural_channels, hidden, bias=True), nn.SiLU())
        self.gate_out = ScaledLinear(hidden, channels)
        self.direct = nn.Parameter(torch.zeros(channels))
        self.scale = channels**-0.5
        nn.init.zeros_(self.gate_out.weight)

    def forward(self, features: Features) -> Float[Tensor, "atoms m"]:
        weights = (self.gate_out(self.gate(features.scalars)) + self.direct) * self.scale
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
        self.partners = nn.ModuleList(ScaledLinear(layout.natural_channels, thin) for _ in range(layout.degree))
        self.mix = ScaledLinear(thin * (layout.degree + 1), hidden)
        self.gate = ScaledLinear(layout.natural_channels, hidden, bias=True)
        self.out = ScaledLinear(hidden, out_features)

    def forward(self, features: Features) -> Float[Tensor, "atoms out_features"]:
        odd = [features.pseudoscalars]
        for degree, partner in enumerate(self.partners, start=1):
            natural = partner(features.select(degree, (-1) ** degree))
            odd.append((natural * features.select(degree, -((-1) ** degree))).mean(1))
        mixed = self.mix(torch.cat(odd, dim=1)) * nn.functional.silu(self.gate(features.scalars))
        return self.out(torch.tanh(mixed))


def sum_atoms(
    values: Float[Tensor, "atoms *shape"], graph_index: Tensor, num_graphs: int
) -> Float[Tensor, "graphs *shape"]:
    """Sum over the atoms of each graph."""
    return add_rows(values, graph_index, size=num_graphs)
