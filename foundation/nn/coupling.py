"""Clebsch–Gordan couplings as dense matrices, so that a contraction over all paths is one GEMM."""

from __future__ import annotations

from typing import Literal

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["even", "odd"]


def coupling_paths(left_degree: int, right_degree: int, degree: int, kind: Kind) -> list[tuple[int, int]]:
    """All (l1, l2) that couple to l with l1 + l2 + l even (parity kept) or odd (parity flipped)."""
    remainder = 0 if kind == "even" else 1
    return [
        (left, right)
        for left in range(left_degree + 1)
        for right in range(right_degree + 1)
        if abs(left - right) <= degree <= left + right and (left + right + degree) % 2 == remainder
    ]


def coupling_matrix(
    left_degree: int, right_degree: int, degree: int, kind: Kind
) -> Float[Tensor, "m_paths left_right"]:
    """Matrix from products x_(l1 m1) y_(l2 m2) to all couplings of degree l.

    Rows are ordered (m, path), columns (left component, right component); each path keeps component normalisation:
    inputs of unit variance give outputs of unit variance.
    """
    paths = coupling_paths(left_degree, right_degree, degree, kind)
    left_size, right_size = (left_degree + 1) ** 2, (right_degree + 1) ** 2
    matrix = torch.zeros(2 * degree + 1, len(paths), left_size, right_size, dtype=torch.float64)
    for index, (left, right) in enumerate(paths):
        block = o3.wigner_3j(left, right, degree, dtype=torch.float64) * (2 * degree + 1) ** 0.5
        matrix[:, index, left**2 : (left + 1) ** 2, right**2 : (right + 1) ** 2] = block.permute(2, 0, 1)
    return matrix.reshape((2 * degree + 1) * len(paths), left_size * right_size)


class Coupling(nn.Module):
    """Contract products of components to every degree up to `out_degree`, all paths at once.

    Input `[atoms, left * right, channels]`; output one tensor a degree, `[atoms, 2l+1, paths * channels]`.

    Attributes:
        num_paths: Paths of each degree; a degree without paths is absent from the output (None).
    """

    def __init__(self, left_degree: int, right_degree: int, out_degree: int, *, kind: Kind) -> None:
        super().__init__()
        self.out_degree = out_degree
        self.num_paths = [
            len(coupling_paths(left_degree, right_degree, degree, kind)) for degree in range(out_degree + 1)
        ]
        for degree in range(out_degree + 1):
            matrix = coupling_matrix(left_degree, right_degree, degree, kind)
            self.register_buffer(f"matrix_{degree}", matrix, persistent=False)

    def forward(
        self, products: Float[Tensor, "atoms pairs channels"]
    ) -> list[Float[Tensor, "atoms _m _paths_channels"] | None]:
        atoms, _, channels = products.shape
        outputs: list[Tensor | None] = []
        for degree in range(self.out_degree + 1):
            if self.num_paths[degree] == 0:
                outputs.append(None)
                continue
            matrix = self.get_buffer(f"matrix_{degree}").to(products.dtype)
            coupled = torch.bmm(matrix.expand(atoms, -1, -1), products)
            outputs.append(coupled.view(atoms, 2 * degree + 1, self.num_paths[degree] * channels))
        return outputs


def outer(
    left: Float[Tensor, "atoms left channels"], right: Float[Tensor, "atoms right channels"]
) -> Float[Tensor, "atoms pairs channels"]:
    """All products of two sets of components, channel by channel."""
    return (left[:, :, None] * right[:, None]).flatten(1, 2)
