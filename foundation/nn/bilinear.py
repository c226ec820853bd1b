"""Products of components with constant, sparse coefficients: what couples features to each other at an atom.

    out[i, p, k] = Σ_n value_n left[i, a_n, k] right[i, b_n, k]

Linear in each factor, so that derivatives of all orders are of the same kind. Of Clebsch–Gordan coefficients most are
zero: on CPUs `bilinear.cpp` goes through the others atom by atom; where it cannot be built, on other devices and in
other precisions, all products are formed and multiplied with a dense matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foundation.nn.native import CheckedKernel, Kernel
from foundation.nn.operator import operator

__all__ = ["bilinear", "has_kernel", "takes_kernel", "terms_of"]

SMALLEST_COEFFICIENT = 1e-12
LARGEST_ERROR = {torch.float32: 1e-5, torch.float64: 1e-13}
"""Of the kernel against a dense matrix, relative to the norm."""
WORK_A_THREAD = 2**15
"""Terms times channels that are worth another thread."""


def terms_of(
    matrix: Float[Tensor, "rows pairs"], first: Int[Tensor, " pairs"], second: Int[Tensor, " pairs"]
) -> tuple[Int[Tensor, "three terms"], Float[Tensor, " terms"]]:
    """The coefficients that are not zero, by rows: row and both components of each, int32, and its value."""
    rows, pairs = torch.nonzero(matrix.abs() > SMALLEST_COEFFICIENT, as_tuple=True)
    return torch.stack([rows, first[pairs], second[pairs]]).int(), matrix[rows, pairs]


def takes_kernel(left: Tensor, right: Tensor) -> bool:
    """Whether `bilinear` may be used."""
    return _KERNEL.takes(left, right) and has_kernel()


def bilinear(
    left: Float[Tensor, "atoms left channels"],
    right: Float[Tensor, "atoms right channels"],
    index: Int[Tensor, "three terms"],
    values: Float[Tensor, " terms"],
    *,
    rows: int,
) -> Float[Tensor, "atoms rows channels"]:
    """Sum the terms of each row; differentiable any number of times by both factors, on CPUs with the kernel.

    Args:
        left: First factor.
        right: Second factor.
        index: From `terms_of`.
        values: The same.
        rows: Of the result.
    """
    return _couple(left, right, index, values.to(left.dtype), rows)


@torch.compiler.assume_constant_result
def has_kernel() -> bool:
    """Whether the kernel is used on CPUs: it could be built, and reproduces a dense matrix."""
    return _KERNEL.found() is not None


class _Terms(NamedTuple):
    index: Tensor
    values: Tensor
    rows: int


def _call(
    kernel: Kernel, order: int, grad: Tensor | None, factors: Sequence[Tensor], others: Sequence[Tensor], terms: _Terms
) -> tuple[Tensor, ...]:
    """Products (order 0), their derivatives by both factors (1), or the derivatives of those, by `grad` first (2)."""
    left, right = factors
    atoms, channels = left.shape[0], left.shape[2]
    threads = max(1, min(torch.get_num_threads(), atoms * len(terms.values) * channels // WORK_A_THREAD))
    inputs = [terms.index, terms.values, grad, left, right, *(others or (None, None))]
    held = [None if one is None else one.contiguous() for one in inputs]
    products = None if order == 1 else left.new_empty(atoms, terms.rows, channels)
    steps = [] if order == 0 else _like(left, right)
    sizes = (atoms, left.shape[1], right.shape[1], terms.rows, channels, len(terms.values), threads)
    kernel(left.dtype, sizes, [*held, products, *(steps or (None, None))], order)
    return (*([] if products is None else [products]), *steps)


def _like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in tensors]


_TERMS = "Tensor index, Tensor values, int rows"


@operator("foundation::couple", f"(Tensor left, Tensor right, {_TERMS}) -> Tensor")
def _couple(left: Tensor, right: Tensor, index: Tensor, values: Tensor, rows: int) -> Tensor:
    return _call(_KERNEL.built(), 0, None, (left, right), (), _Terms(index, values, rows))[0]


@operator(
    "foundation::couple_steps",
    f"(Tensor grad, Tensor left, Tensor right, {_TERMS}) -> (Tensor, Tensor)",
)
def _steps(
    grad: Tensor, left: Tensor, right: Tensor, index: Tensor, values: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    found = _call(_KERNEL.built(), 1, grad, (left, right), (), _Terms(index, values, rows))
    return found[0], found[1]


@operator(
    "foundation::couple_second",
    f"(Tensor grad, Tensor left, Tensor right, Tensor other_left, Tensor other_right, {_TERMS})"
    " -> (Tensor, Tensor, Tensor)",
)
def _second(
    grad: Tensor,
    left: Tensor,
    right: Tensor,
    other_left: Tensor,
    other_right: Tensor,
    index: Tensor,
    values: Tensor,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    terms = _Terms(index, values, rows)
    found = _call(_KERNEL.built(), 2, grad, (left, right), (other_left, other_right), terms)
    return found[0], found[1], found[2]


@_couple.register_fake
def _(left: Tensor, right: Tensor, index: Tensor, values: Tensor, rows: int) -> Tensor:
    del right, index, values
    return left.new_empty(left.shape[0], rows, left.shape[2])


@_steps.register_fake
def _(grad: Tensor, left: Tensor, right: Tensor, index: Tensor, values: Tensor, rows: int) -> tuple[Tensor, ...]:
    del grad, index, values, rows
    return tuple(_like(left, right))


@_second.register_fake
def _(
    grad: Tensor,
    left: Tensor,
    right: Tensor,
    other_left: Tensor,
    other_right: Tensor,
    index: Tensor,
    values: Tensor,
    rows: int,
) -> tuple[Tensor, ...]:
    del other_left, other_right, index, values, rows
    return tuple(_like(grad, left, right))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    del output
    *tensors, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def _or_zeros(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad


def _couple_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_steps(grad, *ctx.saved_tensors, ctx.rows), None, None, None)


def _steps_backward(ctx: Any, by_left: Tensor | None, by_right: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, left, right, index, values = ctx.saved_tensors
    others = _or_zeros(by_left, left), _or_zeros(by_right, right)
    return (*_second(grad, left, right, *others, index, values, ctx.rows), None, None, None)


def _second_backward(
    ctx: Any, by_grad: Tensor | None, by_left: Tensor | None, by_right: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Four products, each linear in three of: a gradient, one factor or its other, the other factor or its other."""
    grad, left, right, other_left, other_right, *terms = ctx.saved_tensors
    terms = (*terms, ctx.rows)
    by_grad, by_left, by_right = _or_zeros(by_grad, grad), _or_zeros(by_left, left), _or_zeros(by_right, right)
    # <by_grad, other_left right + left other_right> + <grad, by_left other_right> + <grad, other_left by_right>
    first = _steps(by_grad, other_left, right, *terms)
    second = _steps(by_grad, left, other_right, *terms)
    third = _steps(grad, by_left, other_right, *terms)
    fourth = _steps(grad, other_left, by_right, *terms)
    to_grad = _couple(by_left, other_right, *terms) + _couple(other_left, by_right, *terms)
    to_others = (first[0] + fourth[0], second[1] + third[1])
    return (to_grad, second[0], first[1], *to_others, None, None, None)


_couple.register_autograd(_couple_backward, setup_context=_keep)
_steps.register_autograd(_steps_backward, setup_context=_keep)
_second.register_autograd(_second_backward, setup_context=_keep)


def _flop(left: Sequence[int], values: Sequence[int], *, products: int) -> int:
    return 2 * products * left[0] * left[2] * values[0]


@register_flop_formula(torch.ops.foundation.couple)
def _(left: Any, _right: Any, _index: Any, values: Any, *_: Any, **__: Any) -> int:
    return _flop(left, values, products=2)


@register_flop_formula(torch.ops.foundation.couple_steps)
def _(_grad: Any, left: Any, _right: Any, _index: Any, values: Any, *_: Any, **__: Any) -> int:
    return _flop(left, values, products=3)


@register_flop_formula(torch.ops.foundation.couple_second)
def _(_grad: Any, left: Any, _r: Any, _ol: Any, _or: Any, _index: Any, values: Any, *_: Any, **__: Any) -> int:
    return _flop(left, values, products=6)


def _largest_error(kernel: Kernel, dtype: torch.dtype) -> float:
    """Of the kernel against a dense matrix and its derivatives, on numbers at random."""
    generator = torch.Generator().manual_seed(0)
    atoms, size, rows, channels = 3, 4, 7, 16

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    matrix = random(rows, size * size) * (torch.rand(rows, size * size, generator=generator) < 0.3)
    pairs = torch.arange(size * size)
    terms = _Terms(*terms_of(matrix, pairs // size, pairs % size), rows)
    with torch.enable_grad():
        factors = [random(atoms, size, channels).requires_grad_() for _ in range(2)]
        outer = (factors[0][:, :, None] * factors[1][:, None]).flatten(1, 2)
        expected = torch.einsum("rp,apk->ark", matrix, outer)
        grad = random(*expected.shape).requires_grad_()
        steps = torch.autograd.grad(expected, factors, grad, create_graph=True)
        others = [random(*one.shape) for one in factors]
        second = torch.autograd.grad(steps, (grad, *factors), others)
    found = [
        *_call(kernel, 0, None, factors, (), terms),
        *_call(kernel, 1, grad, factors, (), terms),
        *_call(kernel, 2, grad, factors, others, terms),
    ]
    wanted = [expected, *steps, *second]
    return max(float(((a - b).norm() / b.norm()).detach()) for a, b in zip(found, wanted, strict=True))


_KERNEL = CheckedKernel(Path(__file__).with_suffix(".cpp"), largest_error=_largest_error, allowed=LARGEST_ERROR)
