r"""The neighbour sum as an edge convolution in the frame of each edge, in place of the contraction at the atom.

    python -m benchmarks.backbones.variants.so2 train tasks/rmd17_n50 \
        model.backbone.edge_degree=2 model.backbone.product_degree=2 …

is the ordinary command line with `foundation.backbones.equivariant.NeighborSum` exchanged for `FrameNeighborSum`. A
model trained so can be read by this command only. The variant reads no harmonics on edges: the least `edge_degree` that
the backbone takes leaves out the others; `product_degree` says how far its sums go. Eager only: frames are shared
between layers in a way that the compiler does not follow.

What is done for each edge: rotate the sender's features until the edge lies along the polar axis, mix degrees and
channels of each |m|, rotate back, sum. Any convolution with filters Y(r_ij) has this form and costs O(L³) instead of
O(L⁶).

Parity. The symmetries that leave the polar axis where it is are rotations about it and reflections through planes that
hold it. A rotation by α turns the pair (+m, -m) of every degree by the same angle m α; maps that commute with it are
combinations of the identity and of the quarter turn of that pair. In features of natural parity, (-1)^l, reflection
through the plane φ = 0 keeps +m (cos m φ) and negates -m (sin m φ) whatever the degree; in those of the other parity it
negates +m and keeps -m. The quarter turn maps what is kept to what is negated, so the identity keeps each tower in
itself and the quarter turn exchanges them. Only the first is used here: one matrix an |m|, the same for +m and -m, no
part that is antisymmetric in them. It spans the paths with l1 + l2 + l even of Clebsch–Gordan coupling with filters of
every degree up to l2 + l.

Source: Passaro and Zitnick, ICML 2023 (arXiv 2302.03655), eSCN, sections 3 and 4; radial functions that multiply the
inputs of the mixing, Liao et al., ICLR 2024 (arXiv 2306.12059), EquiformerV2. The two charts of frames are our own.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation import cli
from foundation.backbones import equivariant
from foundation.backbones.equivariant import EquivariantConfig
from foundation.backbones.geometry import PaddedGeometry
from foundation.nn.coupling import coupling_block
from foundation.nn.edge_radial import Slots
from foundation.nn.gather import take_rows
from foundation.nn.linear import Level, ScaledLinear, UniformLinear

__all__ = ["EdgeFrames", "FrameNeighborSum", "frame_order", "main", "rotations_to_axis"]


def frame_order(degree: int) -> list[tuple[int, int]]:
    """(l, m) as they stand in a frame: by |m|, then sign (+, -), then l; so that each |m| is one block.

    Args:
        degree: Largest l.
    """
    zero = [(order, 0) for order in range(degree + 1)]
    return zero + [
        (order, sign * m) for m in range(1, degree + 1) for sign in (1, -1) for order in range(m, degree + 1)
    ]


def rotations_to_axis(unit_vectors: Float[Tensor, "slots 3"]) -> Float[Tensor, "slots 3 3"]:
    """Rotations R with R u = (0, 1, 0), the polar axis of e3nn's harmonics.

    The shortest rotation from u to the axis is smooth but for u opposite to the axis. Vectors of that hemisphere are
    therefore turned by π about x first: two charts, each used only where it is well conditioned. The frames jump from
    one to the other by a rotation about the edge, to which whatever is equivariant within the frame is blind; so its
    derivatives, taken within either chart, are those of one smooth function.

    Args:
        unit_vectors: u; of length one.

    Returns:
        Differentiable any number of times, everywhere on the sphere.

    Source: Möller and Hughes, J. Graphics Tools 4, 1 (1999), for the shortest rotation.
    """
    x, y, z = unit_vectors.unbind(1)
    chart = 1.0 - 2.0 * (y.detach() < 0).to(y.dtype)
    over = 1.0 / (1.0 + chart * y)
    rows = [
        torch.stack([1.0 - x * x * over, -chart * x, -x * z * over], dim=1),
        unit_vectors,
        torch.stack([-chart * x * z * over, -z, chart * (1.0 - z * z * over)], dim=1),
    ]
    return torch.stack(rows, dim=1)


class EdgeFrames(nn.Module):
    """Matrices that take components in space to components in the frame of each edge.

    D_l is coupled from D_{l-1} and the rotation itself, D_1: polynomials in its entries, no angles.

    Args:
        degree: Largest l.
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        for order in range(2, degree + 1):
            block = coupling_block(order - 1, 1, order)
            raised = torch.einsum("mpb,nqd->pqbdmn", block, block).reshape(-1, (2 * order + 1) ** 2)
            self.register_buffer(f"raise_{order}", raised, persistent=False)
        size = (degree + 1) ** 2
        spread = torch.zeros(sum((2 * order + 1) ** 2 for order in range(degree + 1)), size, size)
        start = 0
        rows = {component: row for row, component in enumerate(frame_order(degree))}
        for order in range(degree + 1):
            for m in range(-order, order + 1):
                for column in range(2 * order + 1):
                    spread[start, rows[order, m], order * order + column] = 1.0
                    start += 1
        self.register_buffer("spread", spread.flatten(1), persistent=False)

    def forward(self, unit_vectors: Float[Tensor, "slots 3"]) -> Float[Tensor, "slots frame_components components"]:
        """Rows as in `frame_order`, columns as in features; orthogonal."""
        slots, dtype = len(unit_vectors), unit_vectors.dtype
        first = rotations_to_axis(unit_vectors).flatten(1)
        blocks = [torch.ones_like(first[:, :1]), first][: self.degree + 1]
        for order in range(2, self.degree + 1):
            products = (blocks[-1][:, :, None] * first[:, None]).flatten(1)
            blocks.append(products @ self.get_buffer(f"raise_{order}").to(dtype))
        size = (self.degree + 1) ** 2
        return (torch.cat(blocks, dim=1) @ self.get_buffer("spread").to(dtype)).view(slots, size, size)


_FRAMES: dict[tuple[int, int], Tensor] = {}
"""Frames of the geometries that are alive, so that layers and towers share them as they share harmonics."""


def _shared_frames(frames: EdgeFrames, geometry: PaddedGeometry) -> Tensor:
    key = (id(geometry), frames.degree)
    if key not in _FRAMES:
        _FRAMES[key] = frames(geometry.unit_vectors)
        weakref.finalize(geometry, _FRAMES.pop, key, None)
    return _FRAMES[key]


class FrameNeighborSum(nn.Module):
    """Σ_j D(r_ij)ᵀ W (R(r_ij) ⊙ D(r_ij) h_j) for one tower; the contract of `equivariant.NeighborSum`.

    W has a matrix an |m|, over degrees and channels. The radial function of (l, |m|, c) is ρ_g(c)(r) R_{l, |m|, c}(r);
    ρ, with the envelope and the mean number of neighbours in it, is the l = 0 row of `angular`.

    Args:
        config: Of the backbone.
        channels: Channels of the tower's features, and of the messages.
        in_degree: Largest l of the features.
        out_channels: Channels of the sums.
    """

    def __init__(
        self, config: EquivariantConfig, *, channels: int, in_degree: int, out_channels: int, apart: int = 0
    ) -> None:
        assert apart == 0, "the variant has the same weights for all levels of theory"
        super().__init__()
        self.groups = config.radial_groups
        self.channels = channels
        self.in_degree = in_degree
        self.out_degree = config.product_degree
        self.frames = EdgeFrames(self.out_degree)
        self.in_counts = [in_degree + 1 - m for m in range(in_degree + 1)]
        self.out_counts = [self.out_degree + 1 - m for m in range(in_degree + 1)]
        self.radial = ScaledLinear(config.radial_width, sum(self.in_counts) * channels)
        self.mixers = nn.ModuleList(
            ScaledLinear(before * channels, after * channels)
            for before, after in zip(self.in_counts, self.out_counts, strict=True)
        )
        self.linear = UniformLinear(self.out_degree, channels, out_channels)
        places = {component: row for row, component in enumerate(frame_order(self.out_degree))}
        kept = [places[component] for component in frame_order(in_degree)]
        self.register_buffer("in_rows", torch.tensor(kept), persistent=False)

    def _radial(
        self,
        hidden: Float[Tensor, "*pairs rows width"],
        slots: Slots,
        angular: Float[Tensor, "slots edge_components groups"],
    ) -> Sequence[Float[Tensor, "slots 1 degrees channels"]]:
        """Radial functions, one tensor an |m|; exactly zero in empty slots."""
        common = angular[:, 0]
        radial = slots.functions(self.radial(hidden))
        radial = radial.view(len(common), -1, self.groups, self.channels // self.groups)
        radial = radial * common[:, None, :, None]
        return radial.view(len(common), 1, -1, self.channels).split(self.in_counts, dim=2)

    def _turned(
        self, features: Float[Tensor, "atoms components channels"], frames: Tensor, geometry: PaddedGeometry
    ) -> Float[Tensor, "slots frame_components channels"]:
        """The senders' features in the frames of their edges."""
        rows = take_rows(features.flatten(1), geometry.senders).view(len(frames), -1, self.channels)
        if self.in_degree == 0:
            return rows
        if self.in_degree < self.out_degree:
            frames = take_rows(frames, self.get_buffer("in_rows"), dim=1)[:, :, : rows.shape[1]]
        return torch.bmm(frames, rows)

    def forward(
        self,
        features: Float[Tensor, "atoms components channels"],
        hidden: Float[Tensor, "*pairs rows width"],
        slots: Slots,
        angular: Float[Tensor, "slots edge_components groups"],
        geometry: PaddedGeometry,
        level: Level,  # noqa: ARG002 (none of its weights depend on it)
    ) -> Float[Tensor, "atoms out_components out_channels"]:
        atoms, width, edges = geometry.num_atoms, geometry.width, len(geometry.distances)
        frames = _shared_frames(self.frames, geometry)
        signs = [1] + [2] * self.in_degree
        turned = self._turned(features, frames, geometry).split(
            [sign * count for sign, count in zip(signs, self.in_counts, strict=True)], dim=1
        )
        messages = []
        radials = self._radial(hidden, slots, angular)
        for sign, part, radial, mixer in zip(signs, turned, radials, self.mixers, strict=True):
            scaled = part.view(edges, sign, -1, self.channels) * radial
            mixed = mixer(scaled.view(edges * sign, -1))
            messages.append(mixed.view(edges, -1, self.channels))
        in_frames = torch.cat(messages, dim=1)
        used = in_frames.shape[1]
        # Rotating back and summing are one product: over neighbours and components of their frames together.
        back = frames[:, :used].reshape(atoms, width * used, -1).transpose(1, 2)
        return self.linear(torch.bmm(back, in_frames.view(atoms, width * used, self.channels)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The ordinary command line on the exchanged backbone.

    Args:
        arguments: As those of `foundation`; None takes the process's own.

    Returns:
        The exit code.
    """
    equivariant.NeighborSum = FrameNeighborSum  # type: ignore[misc, assignment]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
