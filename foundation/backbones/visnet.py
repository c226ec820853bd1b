"""ViSNet behind the seam of this program: torch-geometric's layers, composed on our graphs.

What differs from `torch_geometric.nn.models.ViSNet`, and why:

- Edges are the graph's own, images in periodic directions included, also those of an atom itself; there is no cap on
  neighbours.
- The energy has to be smooth at the cutoff to its third derivative. The decay of an edge multiplies its attention with
  three continuous derivatives instead of the cosine's one, and the map from messages to vectors has no bias, which
  would leave a vector behind where its message is zero. What edges carry between layers needs no decay: it acts only
  through messages that have one.
- Vectors are bounded smoothly instead of being divided by their length or its range, which has no derivative at zero.
  So are edges, messages and updates: messages are products of five factors, and at a high learning rate they ran away
  by a factor of 10⁵ a layer, unseen behind the norms, until float32 ended.
- The first scalars are conditioned on total charge, spin and level of theory, as in every backbone here.
- Sums over neighbours are divided by the square root of their mean number, and a calibrated linear map ends the
  network, so that heads read features of unit variance.

It has no features of the other parity: it cannot tell mirror images apart.

Source: Wang et al., Nat. Commun. 15, 313 (2024), arXiv 2210.16518.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch_geometric.nn.models.visnet import (
    EdgeEmbedding,
    ExpNormalSmearing,
    NeighborEmbedding,
    Sphere,
    ViS_MP,
    ViS_MP_Vertex,
)

from foundation.backbones.conditioning import Conditioning, ElementTable
from foundation.config import Config
from foundation.data.graph import AtomGraph, edge_vectors
from foundation.data.neighbors import MAXIMUM_CUTOFF
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.linear import EquivariantLinear, split_degrees
from foundation.nn.norm import bounded
from foundation.nn.radial import envelope
from foundation.nn.recompute import recomputed


class VisnetConfig(Config):
    """Size and shape of ViSNet.

    Attributes:
        cutoff: Å, 100 at most.
        channels: Channels of each degree (0e, 1o, 2e); there is no pseudo tower.
        num_layers: Rounds of message passing.
        num_heads: Heads of the attention; they share the channels.
        degree: Largest l of edges and features: 1 gives vectors, 2 also what polarizabilities are read from.
        num_basis: Radial functions.
        vertex: Update edges from the vectors of one end too, not only from those of both (ViS-MP-Vertex).
        use_charge: Condition on total charge and spin multiplicity.
    """

    kind: Literal["visnet"] = "visnet"
    cutoff: float = Field(5.0, gt=0, le=MAXIMUM_CUTOFF)
    channels: int = Field(64, ge=1)
    num_layers: int = Field(3, ge=1)
    num_heads: int = Field(8, ge=1)
    degree: Literal[1, 2] = 2
    num_basis: int = Field(32, ge=2)
    vertex: bool = False
    use_charge: bool = True

    @model_validator(mode="after")
    def _divisible(self) -> VisnetConfig:
        if self.channels % self.num_heads:
            raise ValueError(f"channels={self.channels} is not divisible by num_heads={self.num_heads}")
        return self


class _Envelope(nn.Module):
    """`foundation.nn.radial.envelope` in the place of a cosine cutoff, `[edges, 1] -> [edges, 1]`."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distances: Float[Tensor, "edges 1"]) -> Float[Tensor, "edges 1"]:
        return envelope(distances[:, 0], self.cutoff)[:, None]


class _Bounded(nn.Module):
    """`foundation.nn.norm.bounded` as a module: in the place of a norm of vectors, and before maps of messages."""

    def forward(self, features: Float[Tensor, "rows *components channels"]) -> Tensor:
        return bounded(features) if features.ndim == 3 else _bounded_rows(features)


def _bounded_rows(rows: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows channels"]:
    """`foundation.nn.norm.bounded` of scalars."""
    return bounded(rows[:, None])[:, 0]


def _smooth_layer(config: VisnetConfig, *, last: bool) -> ViS_MP:
    """One round of message passing that takes the decay of each edge where torch-geometric's takes its length."""
    kind = ViS_MP_Vertex if config.vertex else ViS_MP
    layer = kind(config.num_heads, config.channels, config.cutoff, None, False, last)
    layer.register_module("cutoff", nn.Identity())
    layer.register_module("vec_layernorm", _Bounded())
    layer.s_proj.register_parameter("bias", None)
    layer.register_module("s_proj", nn.Sequential(_Bounded(), layer.s_proj))
    layer.register_module("o_proj", nn.Sequential(_Bounded(), layer.o_proj))
    return layer


class VisnetBackbone(nn.Module):
    """`AtomGraph -> Features` of natural parity only; see the module's docstring.

    Attributes:
        recomputes: Whether training keeps the results of whole layers only (`foundation.nn.recompute`).
    """

    edge_fields = ("senders", "receivers", "edge_shifts")
    """What it reads of a graph's edges."""
    level_sharing = 1.0
    """All weights are shared by all levels of theory."""

    mean_neighbors: Float[Tensor, ""]

    def __init__(self, config: VisnetConfig, *, elements: tuple[int, ...], num_levels: int) -> None:
        super().__init__()
        channels, degree = config.channels, config.degree
        self.config = config
        self.layout = FeatureLayout(degree, channels, 0)
        self.cutoff = config.cutoff
        self.recomputes = False
        self.elements = ElementTable(elements)
        self.conditioning = Conditioning(
            num_elements=self.elements.size, num_levels=num_levels, channels=channels, use_charge=config.use_charge
        )
        # Components come out in e3nn's order, (x, y, z) and (xz, xy, y²-…, yz, z²-x²); the last map sets their size.
        self.sphere = Sphere(lmax=degree)
        self.radial = ExpNormalSmearing(float(config.cutoff), config.num_basis, trainable=False)
        self.radial.register_module("cutoff_fn", _Envelope(config.cutoff))
        self.neighbor_embedding = NeighborEmbedding(channels, config.num_basis, config.cutoff, self.elements.size)
        self.edge_embedding = EdgeEmbedding(config.num_basis, channels)
        self.layers = nn.ModuleList(
            _smooth_layer(config, last=index == config.num_layers - 1) for index in range(config.num_layers)
        )
        self.scalar_norm = nn.LayerNorm(channels)
        self.mix = EquivariantLinear([channels] * (degree + 1), channels)
        self.register_buffer("mean_neighbors", torch.tensor(16.0))

    def forward(self, graph: AtomGraph, *, with_pseudo: bool = True) -> Features:
        del with_pseudo  # it has none
        element_index = self.elements(graph.atomic_numbers)
        scalars = self.conditioning(graph, element_index)
        offsets = edge_vectors(graph, graph.positions, graph.cell).to(scalars.dtype)
        distances = offsets.square().sum(1).sqrt()
        edge_index = torch.stack([graph.senders, graph.receivers])
        decay = envelope(distances, self.cutoff) * self.mean_neighbors.to(scalars.dtype).rsqrt()
        basis = self.radial(distances)
        directions = self.sphere(offsets / distances[:, None])
        scalars = self._with_neighbors(scalars, element_index, edge_index, basis, decay)
        edges = _bounded_rows(self.edge_embedding(edge_index, basis, scalars))
        vectors = scalars.new_zeros(scalars.shape[0], directions.shape[1], scalars.shape[1])
        for layer in self.layers:
            once = partial(layer, scalars, vectors, edge_index, decay, edges, directions)
            scalar_update, vector_update, edge_update = recomputed(once, when=self.recomputes and self.training)
            scalars, vectors = scalars + _bounded_rows(scalar_update), vectors + bounded(vector_update)
            if edge_update is not None:
                edges = _bounded_rows(edges + edge_update)
        natural = torch.cat([self.scalar_norm(scalars)[:, None], bounded(vectors)], dim=1)
        natural = self.mix(split_degrees(natural))
        return Features(natural, natural.new_zeros(*natural.shape[:2], 0), self.layout)

    def _with_neighbors(
        self, scalars: Tensor, element_index: Tensor, edge_index: Tensor, basis: Tensor, decay: Tensor
    ) -> Float[Tensor, "atoms channels"]:
        """Scalars mixed with the elements around; torch-geometric's own `forward` leaves an atom's images out."""
        block = self.neighbor_embedding
        weights = block.distance_proj(basis) * decay[:, None]
        around = block.propagate(edge_index, x=block.embedding(element_index), W=weights)
        return block.combine(torch.cat([scalars, around], dim=1))
