"""Functions of the distance between knots: quintic splines, of which six are not zero at any place.

On CPUs `splines.cpp` adds those six; where it cannot be built, on other devices and in other precisions, a matrix of
all splines takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from foundation.nn.gather import take_rows
from foundation.nn.native import CheckedKernel, Kernel
from foundation.nn.operator import operator

__all__ = ["SplineBasis", "has_kernel", "interpolated"]

LARGEST_ERROR = {torch.float32: 3e-5, torch.float64: 1e-12}
"""Of the kernel against the matrix of all splines, relative to the norm."""
SPLINES_A_PLACE = 6
"""How many are not zero."""
WORK_A_THREAD = 2**15
"""Numbers of the result that are worth another thread."""


class SplineBasis(nn.Module):
    """Quintic B-splines at equally spaced knots: `[rows] -> [rows, knots]`, r in Å.

    Times the values of a function at `knots` they give that function, slightly smoothed and with four continuous
    derivatives (the envelope has three), between them: a network of the distance need then be evaluated at the knots
    only, however many edges there are. Constants and straight lines are kept exactly; far beyond the cutoff all
    splines are zero.

    Source: de Boor, A Practical Guide to Splines (1978), chapters IX and XII (Schoenberg's approximation).
    """

    knots: Float[Tensor, " knots"]

    def __init__(self, spacing: float, cutoff: float) -> None:
        super().__init__()
        self.spacing = spacing
        self.first = -2.5 * spacing
        # Halfway between multiples of the spacing: none lies at zero, where Bessel functions are a limit.
        numbers = torch.arange(-3, math.ceil(cutoff / spacing) + 3, dtype=torch.float64)
        self.register_buffer("knots", (numbers + 0.5) * spacing, persistent=False)

    def forward(self, distances: Float[Tensor, " rows"]) -> Float[Tensor, "rows knots"]:
        offsets = (distances[:, None] - self.knots.to(distances.dtype)) * (1.0 / self.spacing)
        # Not abs(): its derivative is zero at a knot, and the second one would lack a part there.
        away = torch.where(offsets < 0, -offsets, offsets)
        pieces = [torch.relu(reach - away) for reach in (3, 2, 1)]
        fifth = [piece * piece.square().square() for piece in pieces]
        return fifth[0] * (1 / 120) - fifth[1] * (6 / 120) + fifth[2] * (15 / 120)

    def at(self, distances: Float[Tensor, " rows"]) -> Float[Tensor, "rows *knots"]:
        """What `interpolated` takes: all splines, or for the kernel the place of every row among the knots."""
        if _KERNEL.takes(distances) and has_kernel():
            return (distances - self.first) * (1.0 / self.spacing)
        return self(distances)


def interpolated(
    values: Float[Tensor, "*tables knots functions"],
    splines: Float[Tensor, "rows *knots"],
    tables: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows functions"]:
    """Functions of the distance from their values at knots; differentiable any number of times.

    Args:
        values: At `SplineBasis.knots`; several tables of them where rows name theirs.
        splines: From `SplineBasis.at`.
        tables: The table of each row.
    """
    if splines.ndim == 2:
        return splines @ values if tables is None else (splines[:, None] @ take_rows(values, tables))[:, 0]
    # Values of lower precision come under autocast.
    return _at(values.to(splines.dtype), splines, tables, 0).to(values.dtype)


@torch.compiler.assume_constant_result
def has_kernel() -> bool:
    """Whether the kernel is used on CPUs: it could be built, and reproduces the matrix of splines."""
    return _KERNEL.found() is not None


def _call(
    kernel: Kernel,
    operation: int,
    places: Tensor,
    tables: Tensor | None,
    *,
    values: Tensor | None = None,
    rows: Tensor | None = None,
    derivative: int,
    shape: Sequence[int] = (),
) -> Tensor:
    """Rows from values (operation 0), values of a shape from rows (1), or row by row the product of both (2)."""
    shape = shape if values is None else values.shape
    width = shape[-1]
    result = places.new_empty([(len(places), width), shape, (len(places),)][operation])
    held = [None if one is None else one.contiguous() for one in (places, values, rows)]
    arrays = [held[0], result if operation == 1 else held[1], result if operation == 0 else held[2], None, None]
    if operation == 2:
        arrays[3] = result
    if tables is not None:
        arrays[4] = tables.contiguous()
    threads = max(1, min(torch.get_num_threads(), len(places) * width // WORK_A_THREAD))
    number = 1 if tables is None else shape[0]
    kernel(result.dtype, (len(places), number, shape[-2], width, derivative, threads), arrays, operation)
    return result


@operator(
    "foundation::splines_at",
    "(Tensor values, Tensor places, Tensor? tables, int derivative) -> Tensor",
)
def _at(values: Tensor, places: Tensor, tables: Tensor | None, derivative: int) -> Tensor:
    return _call(_KERNEL.built(), 0, places, tables, values=values, derivative=derivative)


@operator(
    "foundation::splines_spread",
    "(Tensor rows, Tensor places, Tensor? tables, int derivative, SymInt[] shape) -> Tensor",
)
def _spread(rows: Tensor, places: Tensor, tables: Tensor | None, derivative: int, shape: Any) -> Tensor:
    return _call(_KERNEL.built(), 1, places, tables, rows=rows, derivative=derivative, shape=shape)


@operator(
    "foundation::splines_dot",
    "(Tensor rows, Tensor values, Tensor places, Tensor? tables, int derivative) -> Tensor",
)
def _dot(rows: Tensor, values: Tensor, places: Tensor, tables: Tensor | None, derivative: int) -> Tensor:
    return _call(_KERNEL.built(), 2, places, tables, values=values, rows=rows, derivative=derivative)


@_at.register_fake
def _(values: Tensor, places: Tensor, tables: Tensor | None, derivative: int) -> Tensor:
    del tables, derivative
    return values.new_empty(places.shape[0], values.shape[-1])


@_spread.register_fake
def _(rows: Tensor, places: Tensor, tables: Tensor | None, derivative: int, shape: Any) -> Tensor:
    del places, tables, derivative
    return rows.new_empty(shape)


@_dot.register_fake
def _(rows: Tensor, values: Tensor, places: Tensor, tables: Tensor | None, derivative: int) -> Tensor:
    del values, places, tables, derivative
    return rows.new_empty(rows.shape[0])


def _keep_for_at(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, ctx.derivative = inputs
    ctx.save_for_backward(*tensors)


def _keep_for_spread(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, ctx.derivative, _ = inputs
    ctx.save_for_backward(*tensors)


def _at_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, places, tables = ctx.saved_tensors
    order = ctx.derivative
    to_values = _spread(grad, places, tables, order, values.shape) if ctx.needs_input_grad[0] else None
    return to_values, _dot(grad, values, places, tables, order + 1), None, None


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, places, tables = ctx.saved_tensors
    order = ctx.derivative
    return _at(grad, places, tables, order), _dot(rows, grad, places, tables, order + 1), None, None, None


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, values, places, tables = ctx.saved_tensors
    order = ctx.derivative
    return (
        _at(values, places, tables, order) * grad[:, None],
        _spread(rows * grad[:, None], places, tables, order, values.shape),
        _dot(rows, values, places, tables, order + 1) * grad,
        None,
        None,
    )


_at.register_autograd(_at_backward, setup_context=_keep_for_at)
_spread.register_autograd(_spread_backward, setup_context=_keep_for_spread)
_dot.register_autograd(_dot_backward, setup_context=_keep_for_at)


@register_flop_formula(torch.ops.foundation.splines_at)
def _(values: Any, places: Any, *_: Any, **__: Any) -> int:
    return 2 * SPLINES_A_PLACE * places[0] * values[-1]


@register_flop_formula(torch.ops.foundation.splines_spread)
def _(rows: Any, *_: Any, **__: Any) -> int:
    return 2 * SPLINES_A_PLACE * rows[0] * rows[1]


@register_flop_formula(torch.ops.foundation.splines_dot)
def _(rows: Any, *_: Any, **__: Any) -> int:
    return 2 * SPLINES_A_PLACE * rows[0] * rows[1]


def _largest_error(kernel: Kernel, dtype: torch.dtype) -> float:
    """Of the kernel against the matrix of splines and its derivatives by distances, on numbers at random."""
    generator = torch.Generator().manual_seed(0)
    basis = SplineBasis(1.0, 4.0)
    places = torch.rand(40, generator=generator, dtype=dtype) * 14 - 3
    values = torch.randn(2, len(basis.knots), 5, generator=generator, dtype=dtype)
    rows = torch.randn(40, 5, generator=generator, dtype=dtype)
    tables = torch.arange(40) % 2
    errors = []
    with torch.enable_grad():
        distances = (places + basis.first).requires_grad_()
        matrix = basis.forward(distances)  # a counter of operations hooks into calls of any module
        for order in range(3):
            # Every row beside all knots of all tables: those of its own, and zeros.
            wide = (torch.nn.functional.one_hot(tables, 2)[:, :, None] * matrix[:, None]).flatten(1)
            functions = wide @ values.flatten(0, 1)
            expected = [functions, (wide.T @ rows).view_as(values), (functions * rows).sum(1)]
            own = [
                _call(kernel, 0, places, tables, values=values, derivative=order),
                _call(kernel, 1, places, tables, rows=rows, derivative=order, shape=values.shape),
                _call(kernel, 2, places, tables, values=values, rows=rows, derivative=order),
            ]
            errors += [float(((a - b).norm() / b.norm()).detach()) for a, b in zip(own, expected, strict=True)]
            if order < 2:
                columns = [
                    torch.autograd.grad(column.sum(), distances, create_graph=True)[0] for column in matrix.unbind(1)
                ]
                matrix = torch.stack(columns, dim=1)
    return max(errors)


_KERNEL = CheckedKernel(Path(__file__).with_suffix(".cpp"), largest_error=_largest_error, allowed=LARGEST_ERROR)
