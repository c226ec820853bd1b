"""Clebsch–Gordan couplings, all paths at once: sparse on CPUs, one GEMM with a dense matrix elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from foundation.nn.bilinear import bilinear, takes_kernel, terms_of
from foundation.nn.sparse_map import SparseMap

Kind = Literal["even", "odd"]


def coupling_paths(
    left_degrees: Sequence[int], right_degrees: Sequence[int], degree: int, kind: Kind, *, ordered: bool = True
) -> list[tuple[int, int]]:
    """All (l1, l2) that couple to l with l1 + l2 + l even (parity kept) or odd (parity flipped).

    Args:
        left_degrees: l1.
        right_degrees: l2.
        degree: l.
        kind: Which parity.
        ordered: False where both sides are the same features: (l2, l1) repeats (l1, l2), and l1 = l2 with l odd gives
            zero.
    """
    remainder = 0 if kind == "even" else 1
    return [
        (left, right)
        for left in left_degrees
        for right in right_degrees
        if abs(left - right) <= degree <= left + right
        and (left + right + degree) % 2 == remainder
        and (ordered or left < right or (left == right and degree % 2 == 0))
    ]


def coupling_block(left: int, right: int, degree: int) -> Float[Tensor, "m left_m right_m"]:
    """Component normalised: inputs of unit variance give outputs of unit variance."""
    return (o3.wigner_3j(left, right, degree, dtype=torch.float64) * (2 * degree + 1) ** 0.5).permute(2, 0, 1)


class Coupling(nn.Module):
    """Contract products of components to every degree up to `out_degree`.

    Args:
        left_degrees: Degrees of the left factor, ascending.
        right_degrees: Degrees of the right factor.
        out_degree: Largest degree of the result.
        kind: Keep parity or flip it.

    Attributes:
        num_paths: Paths of each degree.
    """

    def __init__(
        self, left_degrees: Sequence[int], right_degrees: Sequence[int], out_degree: int, *, kind: Kind
    ) -> None:
        super().__init__()
        left_starts, right_starts = _starts(left_degrees), _starts(right_degrees)
        rows = []
        self.num_paths: list[int] = []
        for degree in range(out_degree + 1):
            paths = coupling_paths(left_degrees, right_degrees, degree, kind)
            matrix = torch.zeros(2 * degree + 1, len(paths), left_starts[-1], right_starts[-1], dtype=torch.float64)
            for index, (left, right) in enumerate(paths):
                first, second = left_starts[left_degrees.index(left)], right_starts[right_degrees.index(right)]
                block = coupling_block(left, right, degree)
                matrix[:, index, first : first + 2 * left + 1, second : second + 2 * right + 1] = block
            rows.append(matrix.flatten(0, 1).flatten(1))
            self.num_paths.append(len(paths))
        matrix, pairs = torch.cat(rows), torch.arange(left_starts[-1] * right_starts[-1])
        index, values = terms_of(matrix, pairs // right_starts[-1], pairs % right_starts[-1])
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("term_index", index, persistent=False)
        self.register_buffer("term_values", values, persistent=False)

    def forward(
        self, left: Float[Tensor, "atoms left channels"], right: Float[Tensor, "atoms right channels"]
    ) -> list[Float[Tensor, "atoms _m _paths channels"]]:
        """Couple two sets of components; one tensor a degree, `[atoms, 2l+1, paths, channels]`."""
        if takes_kernel(left, right):
            return _by_degree(_sparse(self, left, right), self.num_paths)
        products = (left[:, :, None] * right[:, None]).flatten(1, 2)
        return _by_degree(_dense(self, products), self.num_paths)


class SumCoupling(nn.Module):
    """Contract sums over neighbours, of harmonics times features of every degree, to every degree up to `out_degree`.

    Args:
        edge_degree: Largest degree of the harmonics.
        in_degree: Of the features.
        out_degree: Of the result.

    Attributes:
        num_paths: Paths of each degree.
    """

    def __init__(self, edge_degree: int, in_degree: int, out_degree: int) -> None:
        super().__init__()
        couplings = [
            Coupling(range(edge_degree + 1), [degree], out_degree, kind="even") for degree in range(in_degree + 1)
        ]
        self.num_paths = [sum(paths) for paths in zip(*(one.num_paths for one in couplings), strict=True)]
        by_degree = zip(*(_matrices(one) for one in couplings), strict=True)
        # For every component the paths of features of degree 0, then 1, …, each reading its own sums.
        components = [blocks for matrices in by_degree for blocks in zip(*matrices, strict=True)]
        matrix = torch.cat([torch.block_diag(*blocks) for blocks in components])
        self.sparse = SparseMap(matrix)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, sums: Float[Tensor, "atoms pairs channels"]) -> list[Float[Tensor, "atoms _m _paths_channels"]]:
        """Couple what `neighbor_sum` gives; one tensor a degree, `[atoms, 2l+1, paths * channels]`."""
        coupled = self.sparse(sums) if SparseMap.takes(sums) else _dense(self, sums)
        return [part.flatten(2) for part in _by_degree(coupled, self.num_paths)]


class SymmetricCoupling(nn.Module):
    """`Coupling` of features with themselves: each pair of components once.

    The pairs are the components and the same ones turned around by 0, 1, … half their number: products of slices.

    Args:
        degree: Largest degree of the features.
        out_degree: Largest degree of the result.

    Attributes:
        num_paths: Paths of each degree.
    """

    def __init__(self, degree: int, out_degree: int) -> None:
        super().__init__()
        size, degrees = (degree + 1) ** 2, range(degree + 1)
        self.counts = [size] * ((size + 1) // 2) + [size // 2] * (size % 2 == 0)
        first = torch.cat([torch.arange(count) for count in self.counts])
        second = torch.cat([(torch.arange(count) + shift) % size for shift, count in enumerate(self.counts)])
        rows = []
        self.num_paths: list[int] = []
        for out in range(out_degree + 1):
            paths = coupling_paths(degrees, degrees, out, "even", ordered=False)
            matrix = torch.zeros(2 * out + 1, len(paths), size, size, dtype=torch.float64)
            for index, (left, right) in enumerate(paths):
                matrix[:, index, left**2 : (left + 1) ** 2, right**2 : (right + 1) ** 2] = coupling_block(
                    left, right, out
                )
            both = matrix + matrix.transpose(2, 3) * (1 - torch.eye(size, dtype=torch.float64))
            rows.append(both[:, :, first, second].flatten(0, 1))
            self.num_paths.append(len(paths))
        index, values = terms_of(torch.cat(rows), first, second)
        self.register_buffer("matrix", torch.cat(rows), persistent=False)
        self.register_buffer("term_index", index, persistent=False)
        self.register_buffer("term_values", values, persistent=False)

    def forward(
        self, features: Float[Tensor, "atoms components channels"]
    ) -> list[Float[Tensor, "atoms _m _paths channels"]]:
        """Couple features with themselves; one tensor a degree, `[atoms, 2l+1, paths, channels]`."""
        if takes_kernel(features, features):
            return _by_degree(_sparse(self, features, features), self.num_paths)
        around = torch.cat([features, features[:, : len(self.counts) - 1]], dim=1)
        products = [features[:, :count] * around[:, shift : shift + count] for shift, count in enumerate(self.counts)]
        return _by_degree(_dense(self, torch.cat(products, dim=1)), self.num_paths)


def _starts(degrees: Sequence[int]) -> list[int]:
    """Where the components of each degree begin, and their number."""
    starts = [0]
    for degree in degrees:
        starts.append(starts[-1] + 2 * degree + 1)
    return starts


def _sparse(coupling: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    rows = len(coupling.get_buffer("matrix"))
    return bilinear(left, right, coupling.get_buffer("term_index"), coupling.get_buffer("term_values"), rows=rows)


def _dense(coupling: nn.Module, products: Tensor) -> Tensor:
    matrix = coupling.get_buffer("matrix").to(products.dtype)
    return torch.bmm(matrix.expand(len(products), -1, -1), products)


def _matrices(coupling: Coupling) -> list[Float[Tensor, "_m _paths pairs"]]:
    """The coefficients of each degree of the result."""
    parts = coupling.get_buffer("matrix").split(_num_rows(coupling.num_paths))
    return [
        part.view(2 * degree + 1, paths, part.shape[1])
        for degree, (part, paths) in enumerate(zip(parts, coupling.num_paths, strict=True))
    ]


def _num_rows(num_paths: Sequence[int]) -> list[int]:
    return [(2 * degree + 1) * paths for degree, paths in enumerate(num_paths)]


def _by_degree(coupled: Tensor, num_paths: list[int]) -> list[Tensor]:
    atoms, _, channels = coupled.shape
    parts = coupled.split(_num_rows(num_paths), dim=1)
    return [
        part.view(atoms, 2 * degree + 1, paths, channels)
        for degree, (part, paths) in enumerate(zip(parts, num_paths, strict=True))
    ]
