"""The equivariant backbone: node-side Clebsch–Gordan contraction, a wide natural and a thin pseudo tower.

Each layer sums Y_l1(r_ij) ⊗ (R(r_ij) ⊙ h_j) over neighbours as one batched GEMM, couples the sums at the atom, and
multiplies them with themselves up to correlation order 3, as in the atomic cluster expansion.

Source: density trick and products, Drautz, Phys. Rev. B 99, 014104 (2019); message passing of them, Batatia et al.,
NeurIPS 2022 (arXiv 2206.07697). The layout, the factorised radial and the pseudo tower are our own.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from foundation.backbones.conditioning import Conditioning, ElementTable
from foundation.backbones.geometry import PaddedGeometry, padded_geometry
from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.nn.coupling import Coupling, outer
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.linear import EquivariantLinear, ScaledLinear, split_degrees
from foundation.nn.norm import bounded
from foundation.nn.radial import RadialTrunk, envelope
from foundation.nn.spherical import SphericalHarmonics


class EquivariantConfig(Config):
    """Size and shape of the equivariant backbone.

    Attributes:
        cutoff: Å.
        channels: Channels of each degree in the natural tower (0e, 1o, 2e).
        pseudo_channels: Channels of each degree in the pseudo tower (0o, 1e, 2o); 0: blind to handedness.
        num_layers: Rounds of message passing.
        edge_degree: Largest l of the spherical harmonics on edges.
        degree: Largest l of the hidden features.
        product_degree: Largest l of the neighbour sums that enter the products.
        correlation: Highest order of the products at atoms, 1 to 3.
        num_basis: Bessel functions.
        radial_width: Width of the radial network.
        radial_hidden: Hidden layers of the radial network.
        radial_groups: Groups of channels with an angular radial function of their own.
        use_charge: Condition on total charge and spin multiplicity.
    """

    kind: Literal["equivariant"] = "equivariant"
    cutoff: float = Field(5.0, gt=0)
    channels: int = Field(32, ge=1)
    pseudo_channels: int = Field(8, ge=0)
    num_layers: int = Field(2, ge=1)
    edge_degree: int = Field(3, ge=0, le=6)
    degree: int = Field(2, ge=0, le=4)
    product_degree: int = Field(2, ge=0, le=6)
    correlation: Literal[1, 2, 3] = 3
    num_basis: int = Field(8, ge=1)
    radial_width: int = Field(64, ge=1)
    radial_hidden: int = Field(2, ge=1)
    radial_groups: int = Field(1, ge=1)
    use_charge: bool = True

    @model_validator(mode="after")
    def _divisible(self) -> EquivariantConfig:
        for name in ("channels", "pseudo_channels"):
            if getattr(self, name) % self.radial_groups:
                raise ValueError(f"{name}={getattr(self, name)} is not divisible by radial_groups={self.radial_groups}")
        if self.product_degree < self.degree:
            raise ValueError(f"product_degree={self.product_degree} is below degree={self.degree}")
        return self


class NeighborSum(nn.Module):
    """Σ_j Y(r_ij) ⊗ (R(r_ij) ⊙ h_j) for one tower, coupled at the atom.

    The radial function of a path (l1, l2, c) is ρ_{g(c), l1}(r) R_{l2, c}(r): one factor on the angular side, shared by
    a group of channels, one on the feature side.
    """

    def __init__(self, config: EquivariantConfig, *, channels: int, in_degree: int, out_channels: int) -> None:
        super().__init__()
        self.groups = config.radial_groups
        self.channels = channels
        self.in_size = (in_degree + 1) ** 2
        self.radial = ScaledLinear(config.radial_width, (in_degree + 1) * channels)
        degree_of = torch.repeat_interleave(torch.arange(in_degree + 1), 2 * torch.arange(in_degree + 1) + 1)
        self.register_buffer("degree_of_component", degree_of, persistent=False)
        self.coupling = Coupling(config.edge_degree, in_degree, config.product_degree, kind="even")
        sizes = [paths * channels for paths in self.coupling.num_paths]
        self.linear = EquivariantLinear(sizes, out_channels)

    def _radial_weight(self) -> Float[Tensor, "width slots"]:
        """Repeat the weights of each degree over its components, channel groups outermost."""
        weight = self.radial.weight * self.radial.scale
        table = weight.view(len(weight), -1, self.groups, self.channels // self.groups)
        return table.index_select(1, self.degree_of_component).transpose(1, 2).flatten(1)

    def forward(
        self,
        features: Float[Tensor, "atoms components channels"],
        hidden: Float[Tensor, "slots width"],
        angular: Float[Tensor, "groups atoms edge_components neighbors"],
        geometry: PaddedGeometry,
    ) -> Float[Tensor, "atoms out_components out_channels"]:
        atoms, width = geometry.num_atoms, geometry.width
        per_group = self.channels // self.groups
        rows = features.view(atoms, self.in_size, self.groups, per_group).transpose(1, 2).reshape(atoms, -1)
        messages = rows.index_select(0, geometry.senders) * (hidden @ self._radial_weight())
        by_group = messages.view(atoms, width, self.groups, self.in_size * per_group)
        coupled: list[list[Tensor]] = []
        for group in range(self.groups):
            sums = torch.bmm(angular[group], by_group[:, :, group])
            coupled.append(self.coupling(sums.view(atoms, -1, per_group)))
        if self.groups == 1:
            return self.linear(coupled[0])
        merged = []
        for degree, paths in enumerate(self.coupling.num_paths):
            parts = [group[degree].view(atoms, 2 * degree + 1, paths, per_group) for group in coupled]
            merged.append(torch.cat(parts, dim=3).flatten(2))
        return self.linear(merged)


class Layer(nn.Module):
    """One round: sums over neighbours, products at atoms, residual update of both towers."""

    def __init__(self, config: EquivariantConfig, *, num_elements: int, first: bool) -> None:
        super().__init__()
        wide, thin, degree, top = config.channels, config.pseudo_channels, config.degree, config.product_degree
        self.config = config
        self.degree = degree
        in_degree = 0 if first else degree
        self.angular = ScaledLinear(config.radial_width, config.radial_groups * (config.edge_degree + 1))
        degree_of = torch.repeat_interleave(
            torch.arange(config.edge_degree + 1), 2 * torch.arange(config.edge_degree + 1) + 1
        )
        self.register_buffer("degree_of_component", degree_of, persistent=False)
        self.natural_sum = NeighborSum(config, channels=wide, in_degree=in_degree, out_channels=wide)
        self.pseudo_sum = (
            NeighborSum(config, channels=thin, in_degree=degree, out_channels=thin) if thin and not first else None
        )
        self.natural_keep = EquivariantLinear([wide] * (in_degree + 1), wide)
        self.natural_first = EquivariantLinear([wide] * (degree + 1), wide)
        self.element_scale = nn.Parameter(torch.ones(num_elements, config.correlation, (degree + 1) * wide))
        if config.correlation >= 2:
            self.square = Coupling(top, top, top, kind="even")
            self.square_linear = EquivariantLinear([paths * wide for paths in self.square.num_paths], wide)
        if config.correlation >= 3:
            self.cube = Coupling(top, top, degree, kind="even")
            self.cube_linear = EquivariantLinear([paths * wide for paths in self.cube.num_paths], wide)
        if thin:
            self.pseudo = PseudoProducts(config, first=first)

    def _angular(
        self, harmonics: Tensor, hidden: Tensor, decay: Tensor, geometry: PaddedGeometry
    ) -> Float[Tensor, "groups atoms edge_components neighbors"]:
        radial = (self.angular(hidden) * decay).view(len(hidden), self.config.radial_groups, -1)
        spread = radial.index_select(2, self.degree_of_component) * harmonics[:, None]
        table = spread.view(geometry.num_atoms, geometry.width, self.config.radial_groups, -1)
        return table.permute(2, 0, 3, 1)

    def forward(
        self,
        natural: Float[Tensor, "atoms components channels"],
        pseudo: Float[Tensor, "atoms pseudo_components pseudo_channels"] | None,
        *,
        hidden: Float[Tensor, "slots width"],
        decay: Float[Tensor, "slots 1"],
        harmonics: Float[Tensor, "slots edge_components"],
        geometry: PaddedGeometry,
        element_index: Int[Tensor, " atoms"],
    ) -> tuple[Tensor, Tensor | None]:
        atoms, size = geometry.num_atoms, (self.degree + 1) ** 2
        angular = self._angular(harmonics, hidden, decay, geometry)
        sums = bounded(self.natural_sum(natural, hidden, angular, geometry))
        scales = self.element_scale.index_select(0, element_index).view(
            atoms, self.config.correlation, self.degree + 1, -1
        )
        update = _scaled(self.natural_first(split_degrees(sums[:, :size])), scales[:, 0])
        squares = None
        if self.config.correlation >= 2:
            squares = self.square_linear(self.square(outer(sums, sums)))
            update = update + _scaled(squares[:, :size], scales[:, 1])
        if self.config.correlation >= 3:
            assert squares is not None
            update = update + _scaled(self.cube_linear(self.cube(outer(squares, sums))), scales[:, 2])
        kept = self.natural_keep(split_degrees(natural))
        if kept.shape[1] < size:
            update = torch.cat([update[:, : kept.shape[1]] + kept, update[:, kept.shape[1] :]], dim=1)
        else:
            update = update + kept
        if self.config.pseudo_channels == 0:
            return update, None
        pseudo_sums = None
        if self.pseudo_sum is not None:
            assert pseudo is not None
            pseudo_sums = bounded(self.pseudo_sum(pseudo, hidden, angular, geometry)[:, :size])
        return update, self.pseudo(sums[:, :size], pseudo, pseudo_sums)


def _scaled(
    features: Float[Tensor, "atoms components channels"], scales: Float[Tensor, "atoms degrees channels"]
) -> Tensor:
    """Multiply every degree of every atom by its own row of scales."""
    degrees = scales.shape[1]
    index = torch.repeat_interleave(
        torch.arange(degrees, device=scales.device), 2 * torch.arange(degrees, device=scales.device) + 1
    )
    return features * scales.index_select(1, index)


class PseudoProducts(nn.Module):
    """The thin tower: parity is flipped by products with l1 + l2 + l odd of two different mixtures of natural sums."""

    def __init__(self, config: EquivariantConfig, *, first: bool) -> None:
        super().__init__()
        wide, thin, degree = config.channels, config.pseudo_channels, config.degree
        self.left = EquivariantLinear([wide] * (degree + 1), thin)
        self.right = EquivariantLinear([wide] * (degree + 1), thin)
        self.flip = Coupling(degree, degree, degree, kind="odd")
        flip_sizes = [paths * thin for paths in self.flip.num_paths]
        self.present = [order for order, size in enumerate(flip_sizes) if size]
        self.flip_linear = EquivariantLinear([flip_sizes[order] for order in self.present], thin)
        self.keep_parity = Coupling(degree, degree, degree, kind="even")
        self.product_linear = EquivariantLinear([paths * thin for paths in self.keep_parity.num_paths], thin)
        self.keep = None if first else EquivariantLinear([thin] * (degree + 1), thin)
        self.sum_linear = None if first else EquivariantLinear([thin] * (degree + 1), thin)

    def forward(
        self,
        sums: Float[Tensor, "atoms components channels"],
        pseudo: Float[Tensor, "atoms components thin"] | None,
        pseudo_sums: Float[Tensor, "atoms components thin"] | None,
    ) -> Float[Tensor, "atoms components thin"]:
        degrees = split_degrees(sums)
        left, right = self.left(degrees), self.right(degrees)
        coupled = self.flip(outer(left, right))
        flipped = self.flip_linear([coupled[order] for order in self.present])
        if self.present and self.present[0] == 1:
            flipped = torch.cat([torch.zeros_like(flipped[:, :1]), flipped], dim=1)
        seed = flipped
        if pseudo_sums is not None:
            assert self.sum_linear is not None
            seed = seed + self.sum_linear(split_degrees(pseudo_sums))
        update = seed + self.product_linear(self.keep_parity(outer(left, seed)))
        if self.keep is None:
            return update
        assert pseudo is not None
        return update + self.keep(split_degrees(pseudo))


class EquivariantBackbone(nn.Module):
    """`AtomGraph -> Features` with both parities; see the module's docstring."""

    mean_neighbors: Float[Tensor, ""]

    def __init__(self, config: EquivariantConfig, *, elements: tuple[int, ...], num_levels: int) -> None:
        super().__init__()
        self.config = config
        self.layout = FeatureLayout(config.degree, config.channels, config.pseudo_channels)
        self.cutoff = config.cutoff
        self.elements = ElementTable(elements)
        self.conditioning = Conditioning(
            num_elements=self.elements.size,
            num_levels=num_levels,
            channels=config.channels,
            use_charge=config.use_charge,
        )
        self.harmonics = SphericalHarmonics(config.edge_degree)
        self.trunk = RadialTrunk(
            num_basis=config.num_basis,
            width=config.radial_width,
            num_hidden=config.radial_hidden,
            cutoff=config.cutoff,
        )
        self.layers = nn.ModuleList(
            Layer(config, num_elements=self.elements.size, first=index == 0) for index in range(config.num_layers)
        )
        self.register_buffer("mean_neighbors", torch.tensor(16.0))

    def forward(self, graph: AtomGraph) -> Features:
        element_index = self.elements(graph.atomic_numbers)
        scalars = self.conditioning(graph, element_index)
        geometry = padded_geometry(graph, cutoff=self.cutoff, dtype=scalars.dtype)
        hidden = self.trunk(geometry.distances)
        decay = (envelope(geometry.distances, self.cutoff) * self.mean_neighbors.to(scalars.dtype).rsqrt())[:, None]
        harmonics = self.harmonics(geometry.unit_vectors)
        natural, pseudo = scalars[:, None], None
        for layer in self.layers:
            natural, pseudo = layer(
                natural,
                pseudo,
                hidden=hidden,
                decay=decay,
                harmonics=harmonics,
                geometry=geometry,
                element_index=element_index,
            )
        if pseudo is None:
            pseudo = natural.new_zeros(natural.shape[0], natural.shape[1], 0)
        return Features(natural, pseudo, self.layout)
