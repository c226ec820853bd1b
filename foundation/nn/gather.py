"""Rows by index, and sums by index: the two are each other's derivative.

Torch's compiler turns the derivative of `index_select` into atomic additions in parallel: their order, and so the last
bits, change from run to run, and where two axes are tiled they write beyond the array (torch 2.13, two threads or
more). Within a compiled function both are therefore operators that the compiler does not look into.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

__all__ = ["add_rows", "take_rows"]


def take_rows(values: Shaped[Tensor, "..."], index: Int[Tensor, " rows"], *, dim: int = 0) -> Shaped[Tensor, "..."]:
    """`values` at `index` along one axis."""
    if torch.compiler.is_compiling():
        return _take(values, index, dim)
    return values.index_select(dim, index)


def add_rows(
    values: Shaped[Tensor, "..."], index: Int[Tensor, " rows"], *, size: int, dim: int = 0
) -> Shaped[Tensor, "..."]:
    """Sums of the `values` that share an `index` along one axis, which has `size` places afterwards."""
    if torch.compiler.is_compiling():
        return _add(values, index, size, dim)
    return _summed(values, index, size, dim)


def _summed(values: Tensor, index: Tensor, size: Any, dim: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = size
    return values.new_zeros(shape).index_add(dim, index, values)


@torch.library.custom_op(
    "foundation::take_rows", mutates_args=(), schema="(Tensor values, Tensor index, int dim) -> Tensor"
)
def _take(values: Tensor, index: Tensor, dim: int) -> Tensor:
    return values.index_select(dim, index)


@torch.library.custom_op(
    "foundation::add_rows", mutates_args=(), schema="(Tensor values, Tensor index, SymInt size, int dim) -> Tensor"
)
def _add(values: Tensor, index: Tensor, size: Any, dim: int) -> Tensor:
    return _summed(values, index, size, dim)


@_take.register_fake
def _(values: Tensor, index: Tensor, dim: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = index.shape[0]
    return values.new_empty(shape)


@_add.register_fake
def _(values: Tensor, index: Tensor, size: Any, dim: int) -> Tensor:
    del index
    shape = list(values.shape)
    shape[dim] = size
    return values.new_empty(shape)


def _keep_for_take(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    values, index, ctx.dim = inputs
    ctx.size = values.shape[ctx.dim]
    ctx.save_for_backward(index)


def _keep_for_add(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    _, index, _, ctx.dim = inputs
    ctx.save_for_backward(index)


def _take_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    return _add(grad, index, ctx.size, ctx.dim), None, None


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (index,) = ctx.saved_tensors
    return _take(grad, index, ctx.dim), None, None, None


_take.register_autograd(_take_backward, setup_context=_keep_for_take)
_add.register_autograd(_add_backward, setup_context=_keep_for_add)
