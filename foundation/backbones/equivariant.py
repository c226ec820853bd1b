"""The equivariant backbone: node-side Clebsch–Gordan contraction, a wide natural and a thin pseudo tower.

Each layer sums Y_l1(r_ij) ⊗ (R(r_ij) ⊙ h_j) over neighbours (`foundation.nn.neighbor_sum`), couples the sums at the
atom, and multiplies them with themselves up to correlation order 3, as in the atomic cluster expansion.

Source: density trick and products, Drautz, Phys. Rev. B 99, 014104 (2019); message passing of them, Batatia et al.,
NeurIPS 2022 (arXiv 2206.07697). The layout, the factorised radial and the pseudo tower are our own.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from foundation.backbones.conditioning import Conditioning, ElementTable
from foundation.backbones.geometry import PaddedGeometry, padded_geometry
from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.data.neighbors import MAXIMUM_CUTOFF
from foundation.nn.coupling import Coupling, SumCoupling, SymmetricCoupling
from foundation.nn.edge_radial import ElementPairs, Slots, few_enough
from foundation.nn.features import FeatureLayout, Features
from foundation.nn.gather import take_rows
from foundation.nn.linear import (
    EquivariantLinear,
    Level,
    ScaledLinear,
    UniformLinear,
    over_components,
)
from foundation.nn.neighbor_sum import neighbor_sum
from foundation.nn.norm import bounded
from foundation.nn.radial import RadialTrunk, envelope
from foundation.nn.recompute import recomputed
from foundation.nn.spherical import SphericalHarmonics
from foundation.nn.splines import SplineBasis, interpolated

MOST_KNOTS = 1000
"""Distances at which the radial network is evaluated; 25 for 5 Å and the usual spacing."""


class EquivariantConfig(Config):
    """Size and shape of the equivariant backbone.

    Attributes:
        cutoff: Å, 100 at most.
        channels: Channels of each degree in the natural tower (0e, 1o, 2e).
        pseudo_channels: Channels of each degree in the pseudo tower (0o, 1e, 2o); 0: blind to handedness.
        num_layers: Rounds of message passing.
        edge_degree: Largest l of the spherical harmonics on edges.
        degree: Largest l of the hidden features.
        product_degree: Largest l of the neighbour sums that enter the products.
        correlation: Highest order of the products at atoms, 1 to 3.
        num_basis: Bessel functions.
        basis_decay: The n-th of them counts n^-basis_decay times: large values favour smooth radial functions.
        radial_width: Width of the radial network.
        radial_hidden: Hidden layers of the radial network.
        radial_groups: Groups of channels with an angular radial function of their own.
        radial_spacing: Å between the distances at which the radial network is evaluated, with quintic splines between
            them; null: it is evaluated at every edge.
        radial_elements: Whether the elements at both ends of an edge scale what the radial network gives, in each
            layer; what lies behind is then evaluated at every edge.
        use_charge: Condition on total charge and spin multiplicity.
        level_sharing: How far a step of one level of theory moves the weights of the others, those of heads too. 1: all
            have the same weights (but for scales of channels); below 1 each has its own; 0: no step moves another's.
    """

    kind: Literal["equivariant"] = "equivariant"
    cutoff: float = Field(5.0, gt=0, le=MAXIMUM_CUTOFF)
    channels: int = Field(32, ge=1)
    pseudo_channels: int = Field(8, ge=0)
    num_layers: int = Field(2, ge=1)
    edge_degree: int = Field(3, ge=0, le=6)
    degree: int = Field(2, ge=0, le=4)
    product_degree: int = Field(3, ge=0, le=6)
    correlation: Literal[1, 2, 3] = 3
    num_basis: int = Field(8, ge=1)
    basis_decay: float = Field(1.5, ge=0)
    radial_width: int = Field(64, ge=1)
    radial_hidden: int = Field(2, ge=1)
    radial_groups: int = Field(4, ge=1)
    radial_spacing: float | None = Field(0.2, gt=0)
    radial_elements: bool = True
    use_charge: bool = True
    level_sharing: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> EquivariantConfig:
        for name in ("channels", "pseudo_channels"):
            if getattr(self, name) % self.radial_groups:
                raise ValueError(f"{name}={getattr(self, name)} is not divisible by radial_groups={self.radial_groups}")
        if self.pseudo_channels and self.degree < 1:
            raise ValueError(
                f"degree={self.degree} leaves the pseudo tower (pseudo_channels={self.pseudo_channels}) without a "
                "source; allowed: degree of 1 or more, or pseudo_channels=0"
            )
        if self.radial_spacing is not None and self.cutoff / self.radial_spacing > MOST_KNOTS:
            raise ValueError(
                f"cutoff={self.cutoff:g} Å with radial_spacing={self.radial_spacing:g} Å makes "
                f"{self.cutoff / self.radial_spacing:.3g} distances at which the radial network is evaluated; allowed: "
                f"{MOST_KNOTS} (0.2 Å is usual), or radial_spacing: null to evaluate it at every edge"
            )
        if self.product_degree < self.degree:
            raise ValueError(f"product_degree={self.product_degree} is below degree={self.degree}")
        if self.product_degree > self.edge_degree:
            raise ValueError(f"product_degree={self.product_degree} is above edge_degree={self.edge_degree}")
        return self


class NeighborSum(nn.Module):
    """Σ_j Y(r_ij) ⊗ (R(r_ij) ⊙ h_j) for one tower, coupled at the atom.

    The radial function of a path (l1, l2, c) is ρ_{g(c), l1}(r) R_{l2, c}(r): one factor on the angular side, shared by
    a group of channels, one on the feature side.
    """

    def __init__(
        self, config: EquivariantConfig, *, channels: int, in_degree: int, out_channels: int, apart: int
    ) -> None:
        super().__init__()
        self.channels, self.in_degree = channels, in_degree
        self.radial = ScaledLinear(config.radial_width, (in_degree + 1) * channels, num_levels=apart)
        self.coupling = SumCoupling(config.edge_degree, in_degree, config.product_degree)
        paths = self.coupling.num_paths
        self.linear = EquivariantLinear([number * channels for number in paths], out_channels, num_levels=apart)

    def forward(
        self,
        features: Float[Tensor, "atoms components channels"],
        hidden: Float[Tensor, "*pairs rows width"],
        slots: Slots,
        angular: Float[Tensor, "slots edge_components groups"],
        geometry: PaddedGeometry,
        level: Level,
    ) -> Float[Tensor, "atoms out_components out_channels"]:
        radial = slots.functions(self.radial(hidden, level)).view(len(angular), self.in_degree + 1, self.channels)
        sums = neighbor_sum(angular, radial, features, geometry.senders, geometry.filled)
        return self.linear(self.coupling(sums), level)


class Layer(nn.Module):
    """One round: sums over neighbours, products at atoms, residual update of both towers."""

    def __init__(
        self, config: EquivariantConfig, *, num_elements: int, num_levels: int, apart: int, first: bool
    ) -> None:
        super().__init__()
        wide, thin, degree, top = config.channels, config.pseudo_channels, config.degree, config.product_degree
        self.config = config
        self.degree = degree
        in_degree = 0 if first else degree
        self.element_pairs = (
            ElementPairs(num_elements=num_elements, width=config.radial_width) if config.radial_elements else None
        )
        self.angular = ScaledLinear(
            config.radial_width, config.radial_groups * (config.edge_degree + 1), num_levels=apart
        )
        self.natural_sum = NeighborSum(config, channels=wide, in_degree=in_degree, out_channels=wide, apart=apart)
        self.pseudo_sum = (
            NeighborSum(config, channels=thin, in_degree=degree, out_channels=thin, apart=apart)
            if thin and not first
            else None
        )
        self.natural_keep = UniformLinear(in_degree, wide, wide, num_levels=apart)
        self.natural_first = UniformLinear(degree, wide, wide, num_levels=apart)
        self.element_scale = nn.Parameter(torch.ones(num_elements, config.correlation, (degree + 1) * wide))
        self.level_scale = nn.Parameter(torch.zeros(num_levels, config.correlation, (degree + 1) * wide))
        if config.correlation >= 2:
            self.square = SymmetricCoupling(top, top)
            self.square_linear = EquivariantLinear(
                [paths * wide for paths in self.square.num_paths], wide, num_levels=apart
            )
        if config.correlation >= 3:
            self.cube = Coupling(range(top + 1), range(top + 1), degree, kind="even")
            self.cube_linear = EquivariantLinear(
                [paths * wide for paths in self.cube.num_paths], wide, num_levels=apart
            )
        if thin:
            self.pseudo = PseudoProducts(config, first=first, apart=apart)

    def _scales(
        self, element_index: Tensor, level_index: Tensor
    ) -> Float[Tensor, "atoms correlation components channels"]:
        scales = take_rows(self._of_components(self.element_scale), element_index)
        level_scale = self._of_components(self.level_scale)
        scales = scales + (level_scale if len(level_scale) == 1 else take_rows(level_scale, level_index))
        return scales.unflatten(1, (self.config.correlation, (self.degree + 1) ** 2, -1))

    def _of_components(self, table: Tensor) -> Float[Tensor, "rows _"]:
        return over_components(table.unflatten(2, (self.degree + 1, -1)), dim=2).flatten(1)

    def _angular(
        self, harmonics: Tensor, hidden: Tensor, slots: Slots, level: Level
    ) -> Float[Tensor, "slots edge_components groups"]:
        radial = self.angular(hidden, level).unflatten(-1, (self.config.radial_groups, -1)).transpose(-1, -2)
        table = slots.functions(over_components(radial, dim=-2).flatten(-2))
        return table.view(*harmonics.shape, self.config.radial_groups) * harmonics[:, :, None]

    def forward(
        self,
        natural: Float[Tensor, "atoms components channels"],
        pseudo: Float[Tensor, "atoms pseudo_components pseudo_channels"] | None,
        *,
        hidden: Float[Tensor, "rows width"],
        slots: Slots,
        harmonics: Float[Tensor, "slots edge_components"],
        geometry: PaddedGeometry,
        element_index: Int[Tensor, " atoms"],
        level_index: Int[Tensor, " atoms"],
        level: Level,
        with_pseudo: bool,
    ) -> tuple[Tensor, Tensor | None]:
        size = (self.degree + 1) ** 2
        if self.element_pairs is not None:
            hidden = self.element_pairs(hidden, slots)
        angular = self._angular(harmonics, hidden, slots, level)
        sums = bounded(self.natural_sum(natural, hidden, slots, angular, geometry, level))
        low = sums if sums.shape[1] == size else sums[:, :size]
        scales = self._scales(element_index, level_index)
        update = self.natural_first(low, level) * scales[:, 0]
        if self.config.correlation >= 2:
            squares = self.square_linear(_flat(self.square(sums)), level)
            update = update + (squares if squares.shape[1] == size else squares[:, :size]) * scales[:, 1]
            if self.config.correlation >= 3:
                update = update + self.cube_linear(_flat(self.cube(squares, sums)), level) * scales[:, 2]
        kept = self.natural_keep(natural, level)
        if kept.shape[1] < size:
            kept = nn.functional.pad(kept, (0, 0, 0, size - kept.shape[1]))
        update = update + kept
        if not with_pseudo:
            return update, None
        pseudo_sums = None
        if self.pseudo_sum is not None:
            assert pseudo is not None
            pseudo_sums = self.pseudo_sum(pseudo, hidden, slots, angular, geometry, level)
            pseudo_sums = bounded(pseudo_sums if pseudo_sums.shape[1] == size else pseudo_sums[:, :size])
        return update, self.pseudo(low, pseudo, pseudo_sums, level)


def _flat(parts: list[Tensor]) -> list[Float[Tensor, "atoms _m _paths_channels"]]:
    """Paths and channels as one axis."""
    return [part.flatten(2) for part in parts]


class PseudoProducts(nn.Module):
    """The thin tower: parity is flipped by products with l1 + l2 + l odd of two different mixtures of natural sums."""

    def __init__(self, config: EquivariantConfig, *, first: bool, apart: int) -> None:
        super().__init__()
        wide, thin, degree = config.channels, config.pseudo_channels, config.degree
        degrees = range(degree + 1)
        self.left = UniformLinear(degree, wide, thin, num_levels=apart)
        self.right = UniformLinear(degree, wide, thin, num_levels=apart)
        self.flip = Coupling(degrees, degrees, degree, kind="odd")
        flip_sizes = [paths * thin for paths in self.flip.num_paths]
        self.present = [order for order, size in enumerate(flip_sizes) if size]
        self.flip_linear = EquivariantLinear([flip_sizes[order] for order in self.present], thin, num_levels=apart)
        self.keep_parity = Coupling(degrees, degrees, degree, kind="even")
        self.product_linear = EquivariantLinear(
            [paths * thin for paths in self.keep_parity.num_paths], thin, num_levels=apart
        )
        self.keep = None if first else UniformLinear(degree, thin, thin, num_levels=apart)
        self.sum_linear = None if first else UniformLinear(degree, thin, thin, num_levels=apart)

    def forward(
        self,
        sums: Float[Tensor, "atoms components channels"],
        pseudo: Float[Tensor, "atoms components thin"] | None,
        pseudo_sums: Float[Tensor, "atoms components thin"] | None,
        level: Level,
    ) -> Float[Tensor, "atoms components thin"]:
        left, right = self.left(sums, level), self.right(sums, level)
        coupled = self.flip(left, right)
        seed = self.flip_linear([coupled[order].flatten(2) for order in self.present], level)
        if self.present and self.present[0] == 1:
            seed = nn.functional.pad(seed, (0, 0, 1, 0))
        if pseudo_sums is not None:
            assert self.sum_linear is not None
            seed = seed + self.sum_linear(pseudo_sums, level)
        update = seed + self.product_linear(_flat(self.keep_parity(left, seed)), level)
        if self.keep is None:
            return update
        assert pseudo is not None
        return update + self.keep(pseudo, level)


class EquivariantBackbone(nn.Module):
    """`AtomGraph -> Features` with both parities; see the module's docstring.

    Attributes:
        recomputes: Whether training keeps the results of whole layers only (`foundation.nn.recompute`).
        level_sharing: Below 1 weights depend on the level of theory, and a batch may only have one.
    """

    edge_fields = ("slot_senders", "slot_shifts", "slot_filled")
    """What it reads of a graph's edges."""

    mean_neighbors: Float[Tensor, ""]

    def __init__(self, config: EquivariantConfig, *, elements: tuple[int, ...], num_levels: int) -> None:
        super().__init__()
        self.config = config
        apart = num_levels if config.level_sharing < 1 else 0
        self.layout = FeatureLayout(config.degree, config.channels, config.pseudo_channels, apart)
        self.cutoff = config.cutoff
        self.recomputes = False
        self.level_sharing = config.level_sharing
        self.elements = ElementTable(elements)
        self.conditioning = Conditioning(
            num_elements=self.elements.size,
            num_levels=num_levels,
            channels=config.channels,
            use_charge=config.use_charge,
        )
        self.harmonics = SphericalHarmonics(config.edge_degree)
        spacing = config.radial_spacing
        self.splines = None if spacing is None else SplineBasis(spacing, config.cutoff)
        self.trunk = RadialTrunk(
            num_basis=config.num_basis,
            decay=config.basis_decay,
            width=config.radial_width,
            num_hidden=config.radial_hidden,
            cutoff=config.cutoff,
            num_levels=apart,
        )
        self.layers = nn.ModuleList(
            Layer(config, num_elements=self.elements.size, num_levels=num_levels, apart=apart, first=index == 0)
            for index in range(config.num_layers)
        )
        self.register_buffer("mean_neighbors", torch.tensor(16.0))

    def forward(self, graph: AtomGraph, *, with_pseudo: bool = True) -> Features:
        """Features of every atom; without the pseudo tower, on which the natural one does not depend, if so asked."""
        with_pseudo = with_pseudo and self.config.pseudo_channels > 0
        assert graph.num_levels == 1 or self.level_sharing == 1, "the model takes batches of several levels apart"
        level = graph.level_index[:1]
        element_index = self.elements(graph.atomic_numbers)
        scalars = self.conditioning(graph, element_index)
        geometry = padded_geometry(graph, cutoff=self.cutoff, dtype=scalars.dtype)
        hidden, slots = self._radial(geometry, element_index, level)
        decay = (envelope(geometry.distances, self.cutoff) * self.mean_neighbors.to(scalars.dtype).rsqrt())[:, None]
        harmonics = self.harmonics(geometry.unit_vectors) * decay
        level_index = take_rows(graph.level_index, graph.graph_index)
        natural, pseudo = scalars[:, None], None
        for layer in self.layers:
            once = partial(
                layer,
                natural,
                pseudo,
                hidden=hidden,
                slots=slots,
                harmonics=harmonics,
                geometry=geometry,
                element_index=element_index,
                level_index=level_index,
                level=level,
                with_pseudo=with_pseudo,
            )
            natural, pseudo = recomputed(once, when=self.recomputes and self.training)
        if pseudo is None:
            pseudo = natural.new_zeros(natural.shape[0], natural.shape[1], 0)
        return Features(natural, pseudo, self.layout, level if self.level_sharing < 1 else None)

    def _radial(
        self, geometry: PaddedGeometry, element_index: Int[Tensor, " atoms"], level: Level
    ) -> tuple[Float[Tensor, "rows width"], Slots]:
        """The radial network at the knots or in every slot, and how layers get their functions from it."""
        pairs = None
        if self.config.radial_elements:
            senders = take_rows(element_index, geometry.senders).view(geometry.num_atoms, geometry.width)
            pairs = (element_index[:, None] * self.elements.size + senders).flatten()
        if self.splines is None:
            return self.trunk(geometry.distances, level), Slots(None, pairs)
        splines = self.splines.at(geometry.distances)
        knots = self.splines.knots.to(geometry.distances.dtype)
        hidden = self.trunk(knots, level)
        # All pairs at all knots, unless elements are many, or all splines a matrix.
        if pairs is None or (splines.ndim == 1 and few_enough(self.elements.size, len(knots))):
            return hidden, Slots(splines, pairs)
        return interpolated(hidden, splines), Slots(None, pairs)
