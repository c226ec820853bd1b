"""Linear maps of components with constant, sparse coefficients: what couples sums over neighbours at their atom.

    out[i, p, k] = Σ_n value_n inputs[i, a_n, k]

The derivative is the map turned round. On CPUs `sparse_map.cpp` goes through the coefficients that are not zero, 215 of
3,888 for features of degree 2 and edges of degree 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from foundation.nn.native import CheckedKernel, Kernel
from foundation.nn.operator import operator

__all__ = ["SparseMap", "has_kernel"]

SMALLEST_COEFFICIENT = 1e-12
LARGEST_ERROR = {torch.float32: 1e-5, torch.float64: 1e-13}
"""Of the kernel against a dense matrix, relative to the norm."""
WORK_A_THREAD = 2**16
"""Terms times channels that are worth another thread."""


class SparseMap(nn.Module):
    """`[atoms, columns, channels] -> [atoms, rows, channels]` by a constant matrix; for what `takes` says.

    Args:
        matrix: Of which most coefficients are zero.
    """

    index: Tensor
    values: Tensor
    turned_index: Tensor
    turned_values: Tensor

    def __init__(self, matrix: Float[Tensor, "rows columns"]) -> None:
        super().__init__()
        self.rows = matrix.shape[0]
        for name, one in (("", matrix), ("turned_", matrix.T)):
            places = torch.nonzero(one.abs() > SMALLEST_COEFFICIENT).T.contiguous()
            self.register_buffer(f"{name}index", places.int(), persistent=False)
            self.register_buffer(f"{name}values", one[places[0], places[1]], persistent=False)

    @staticmethod
    def takes(inputs: Tensor) -> bool:
        """Whether there is a kernel for such numbers."""
        return _KERNEL.takes(inputs) and has_kernel()

    def forward(self, inputs: Float[Tensor, "atoms columns channels"]) -> Float[Tensor, "atoms rows channels"]:
        values, turned = self.values.to(inputs.dtype), self.turned_values.to(inputs.dtype)
        return _map(inputs, self.index, values, self.turned_index, turned, self.rows)


@torch.compiler.assume_constant_result
def has_kernel() -> bool:
    """Whether the kernel is used on CPUs: it could be built, and reproduces a dense matrix."""
    return _KERNEL.found() is not None


def _call(kernel: Kernel, inputs: Tensor, index: Tensor, values: Tensor, rows: int) -> Tensor:
    atoms, columns, channels = inputs.shape
    threads = max(1, min(torch.get_num_threads(), atoms * len(values) * channels // WORK_A_THREAD))
    result = inputs.new_empty(atoms, rows, channels)
    sizes = (atoms, columns, rows, channels, len(values), threads)
    kernel(inputs.dtype, sizes, [index, values, inputs.contiguous(), result], 0)
    return result


@operator(
    "foundation::sparse_map",
    "(Tensor inputs, Tensor index, Tensor values, Tensor turned_index, Tensor turned_values, int rows) -> Tensor",
)
def _map(
    inputs: Tensor, index: Tensor, values: Tensor, turned_index: Tensor, turned_values: Tensor, rows: int
) -> Tensor:
    del turned_index, turned_values
    return _call(_KERNEL.built(), inputs, index, values, rows)


@_map.register_fake
def _(inputs: Tensor, index: Tensor, values: Tensor, turned_index: Tensor, turned_values: Tensor, rows: int) -> Tensor:
    del index, values, turned_index, turned_values
    return inputs.new_empty(inputs.shape[0], rows, inputs.shape[2])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    values, *terms, _ = inputs
    ctx.columns = values.shape[1]
    ctx.save_for_backward(*terms)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    index, values, turned_index, turned_values = ctx.saved_tensors
    return _map(grad, turned_index, turned_values, index, values, ctx.columns), None, None, None, None, None


_map.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.foundation.sparse_map)
def _(inputs: Sequence[int], _index: Any, values: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * inputs[0] * inputs[2] * values[0]


def _largest_error(kernel: Kernel, dtype: torch.dtype) -> float:
    """Of the kernel against a dense matrix, and turned round, on numbers at random."""
    generator = torch.Generator().manual_seed(0)
    rows, columns, channels = 7, 9, 16
    matrix = torch.randn(rows, columns, generator=generator, dtype=dtype)
    matrix[torch.rand(rows, columns, generator=generator) < 0.7] = 0.0
    errors = []
    for one in (matrix, matrix.T):
        inputs = torch.randn(3, one.shape[1], channels, generator=generator, dtype=dtype)
        places = torch.nonzero(one).T.contiguous()
        found = _call(kernel, inputs, places.int(), one[places[0], places[1]], one.shape[0])
        expected = one @ inputs
        errors.append(float((found - expected).norm() / expected.norm()))
    return max(errors)


_KERNEL = CheckedKernel(Path(__file__).with_suffix(".cpp"), largest_error=_largest_error, allowed=LARGEST_ERROR)
