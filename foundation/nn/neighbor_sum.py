"""Σ_s Y(r_is) ρ_g(r_is) ⊗ R_l(r_is) h_j(i, s): what every layer does with every edge, without storing a message.

    out[i, (l, e, c), k] = Σ_s angular[i, s, e, g(k)] radial[i, s, l, k] features[j(i, s), (l, c), k]

with slots s of receiver i, components e of harmonics, components c of degree l of the features, channels k and their
groups g(k). The sum is linear in each of its three factors, so its derivatives of all orders are sums of the same kind:
on CPUs `neighbor_sum.cpp` goes through them slot by slot in the nearest cache. Where it cannot be built, on other
devices and in other precisions, the same is done with batched matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foundation.nn.gather import take_rows
from foundation.nn.native import CheckedKernel, Kernel
from foundation.nn.operator import operator

__all__ = ["has_kernel", "neighbor_sum", "sum_by_products"]

MOST_DEGREES = 5
"""Degrees of features, 0 to 4, that the kernel knows."""
WORK_A_THREAD = 2**17
"""Products that are worth another thread."""
SHARES = 8
"""Threads add up derivatives by themselves in copies of the features; so many at least, else one for each slot of an
atom: then the copies are no larger than the messages that need not be stored."""
LARGEST_ERROR = {torch.float32: 1e-5, torch.float64: 1e-13}
"""Of the kernel against matrix products, relative to the norm."""


def neighbor_sum(
    angular: Float[Tensor, "slots edge_components groups"],
    radial: Float[Tensor, "slots degrees channels"],
    features: Float[Tensor, "atoms components channels"],
    senders: Int[Tensor, " slots"],
    filled: Bool[Tensor, " slots"],
) -> Float[Tensor, "atoms pairs channels"]:
    """Sum over the slots of every atom; differentiable any number of times.

    Args:
        angular: Y(r) ρ_g(r); zero in slots that are not filled.
        radial: R_l(r).
        features: h, `components = degrees²`.
        senders: Rows of `features`.
        filled: Slots that hold a neighbour.

    Returns:
        The degrees l of the features one after the other, `edge_components * (2l+1)` pairs each.
    """
    if not (_KERNEL.takes(angular, radial, features) and radial.shape[1] <= MOST_DEGREES and has_kernel()):
        return sum_by_products(angular, radial, features, senders)
    return _sum(angular, radial, features, senders, filled)


def sum_by_products(angular: Tensor, radial: Tensor, features: Tensor, senders: Tensor) -> Tensor:
    """`neighbor_sum` with messages in memory and one batched matrix product a degree."""
    atoms, channels = features.shape[0], features.shape[2]
    width, groups = senders.shape[0] // max(atoms, 1), angular.shape[2]
    by_receiver = angular.view(atoms, width, -1, groups).permute(3, 0, 2, 1)
    rows = take_rows(features.flatten(1), senders).view(atoms * width, -1, channels)
    sizes = [2 * degree + 1 for degree in range(radial.shape[1])]
    blocks = []
    for part, scale in zip(rows.split(sizes, dim=1), radial.split(1, dim=1), strict=True):
        messages = (part * scale).view(atoms, width, -1, groups, channels // groups)
        if groups == 1:
            blocks.append(torch.bmm(by_receiver[0], messages.flatten(2)).view(atoms, -1, channels))
            continue
        sums = (by_receiver @ messages.permute(3, 0, 1, 2, 4).flatten(3)).view(groups, atoms, -1, channels // groups)
        blocks.append(sums.permute(1, 2, 0, 3).flatten(2))
    return torch.cat(blocks, dim=1)


@torch.compiler.assume_constant_result
def has_kernel() -> bool:
    """Whether sums on CPUs go through the kernel: it could be built, and reproduces matrix products."""
    return _KERNEL.found() is not None


class _Factors(NamedTuple):
    angular: Tensor
    radial: Tensor
    features: Tensor


class _Slots(NamedTuple):
    senders: Tensor
    filled: Tensor


def _call(
    kernel: Kernel, order: int, grad: Tensor | None, factors: _Factors, others: _Factors | None, slots: _Slots
) -> tuple[Tensor, ...]:
    """The sum (order 0), its derivatives (1), or the derivatives of those, that by `grad` first (2)."""
    angular, radial, features = factors
    atoms, components, channels = features.shape
    edge, groups, width = angular.shape[1], angular.shape[2], len(slots.senders) // max(atoms, 1)
    work = len(slots.senders) * edge * components * channels
    threads = max(1, min(torch.get_num_threads(), work // WORK_A_THREAD, max(SHARES, width)))
    inputs = [grad, *factors, *(others or (None,) * 3), *slots]
    held = [None if one is None else one.contiguous() for one in inputs]
    sums = None if order == 1 else features.new_empty(atoms, edge * components, channels)
    steps = [] if order == 0 else [torch.empty_like(one, memory_format=torch.contiguous_format) for one in factors]
    shares = None if order == 0 else features.new_empty(threads, atoms, components, channels)
    arrays = [*held, sums, *(steps or (None,) * 3), shares]
    kernel(features.dtype, (atoms, width, groups, edge, radial.shape[1], channels, threads), arrays, order)
    return (*([] if sums is None else [sums]), *steps)


_FACTORS = "Tensor angular, Tensor radial, Tensor features"
_OTHERS = "Tensor other_angular, Tensor other_radial, Tensor other_features"
_SLOTS = "Tensor senders, Tensor filled"


@operator("foundation::neighbor_sum", f"({_FACTORS}, {_SLOTS}) -> Tensor")
def _sum(angular: Tensor, radial: Tensor, features: Tensor, senders: Tensor, filled: Tensor) -> Tensor:
    return _call(_KERNEL.built(), 0, None, _Factors(angular, radial, features), None, _Slots(senders, filled))[0]


@operator(
    "foundation::neighbor_sum_steps",
    f"(Tensor grad, {_FACTORS}, {_SLOTS}) -> (Tensor, Tensor, Tensor)",
)
def _steps(
    grad: Tensor, angular: Tensor, radial: Tensor, features: Tensor, senders: Tensor, filled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    steps = _call(_KERNEL.built(), 1, grad, _Factors(angular, radial, features), None, _Slots(senders, filled))
    return steps[0], steps[1], steps[2]


@operator(
    "foundation::neighbor_sum_second",
    f"(Tensor grad, {_FACTORS}, {_OTHERS}, {_SLOTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _second(
    grad: Tensor,
    angular: Tensor,
    radial: Tensor,
    features: Tensor,
    other_angular: Tensor,
    other_radial: Tensor,
    other_features: Tensor,
    senders: Tensor,
    filled: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    others = _Factors(other_angular, other_radial, other_features)
    found = _call(_KERNEL.built(), 2, grad, _Factors(angular, radial, features), others, _Slots(senders, filled))
    return found[0], found[1], found[2], found[3]


@_sum.register_fake
def _(angular: Tensor, radial: Tensor, features: Tensor, senders: Tensor, filled: Tensor) -> Tensor:
    del radial, senders, filled
    return features.new_empty(features.shape[0], angular.shape[1] * features.shape[1], features.shape[2])


def _like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in tensors]


@_steps.register_fake
def _(
    grad: Tensor, angular: Tensor, radial: Tensor, features: Tensor, senders: Tensor, filled: Tensor
) -> tuple[Tensor, ...]:
    del grad, senders, filled
    return tuple(_like(angular, radial, features))


@_second.register_fake
def _(
    grad: Tensor,
    angular: Tensor,
    radial: Tensor,
    features: Tensor,
    other_angular: Tensor,
    other_radial: Tensor,
    other_features: Tensor,
    senders: Tensor,
    filled: Tensor,
) -> tuple[Tensor, ...]:
    del other_angular, other_radial, other_features, senders, filled
    return tuple(_like(grad, angular, radial, features))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _or_zeros(grads: tuple[Tensor | None, ...], like: tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.zeros_like(one) if grad is None else grad for grad, one in zip(grads, like, strict=True)]


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_steps(grad, *ctx.saved_tensors), None, None)


def _steps_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, angular, radial, features, *slots = ctx.saved_tensors
    factors = (angular, radial, features)
    return (*_second(grad, *factors, *_or_zeros(grads, factors), *slots), None, None)


def _second_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Nine sums that are linear in grad and in each factor; `turned` are the derivatives of the loss by `_second`."""
    grad, *rest = ctx.saved_tensors
    factors, others, slots = rest[:3], rest[3:6], rest[6:]
    turned = _or_zeros(grads, (grad, *factors))
    steps = [torch.zeros_like(one) for one in (grad, *factors, *others)]

    def add(by: Tensor, replaced: dict[int, Tensor], of: list[int | None]) -> None:
        """One sum, with some factors replaced; `of` says which of `steps` its derivatives are part of."""
        taken = [replaced.get(index, factor) for index, factor in enumerate(factors)]
        found = (_sum(*taken, *slots), *_steps(by, *taken, *slots))
        for place, step in zip(of, found, strict=True):
            if place is not None:
                steps[place] = steps[place] + step

    for index in range(3):
        # <turned[0], sum with one factor replaced by its other>
        add(turned[0], {index: others[index]}, [None, *_places(other=index, turned=None)])
        for second in range(3):
            if second != index:
                # <grad, sum with one factor replaced by its other, and a second one by what the loss turns>
                replaced = {index: others[index], second: turned[1 + second]}
                add(grad, replaced, [0, *_places(other=index, turned=second)])
    return (*steps, None, None)


def _places(*, other: int, turned: int | None) -> list[int | None]:
    """Where in `steps` the derivatives by three factors belong: grad, then factors, then others."""
    return [4 + index if index == other else None if index == turned else 1 + index for index in range(3)]


_sum.register_autograd(_sum_backward, setup_context=_keep)
_steps.register_autograd(_steps_backward, setup_context=_keep)
_second.register_autograd(_second_backward, setup_context=_keep)


def _products(features: Sequence[int], angular: Sequence[int]) -> int:
    """Multiplications and additions of one sum over all slots, filled or not."""
    return 2 * angular[0] * angular[1] * features[1] * features[2]


@register_flop_formula(torch.ops.foundation.neighbor_sum)
def _(angular: Any, _radial: Any, features: Any, *_: Any, **__: Any) -> int:
    return _products(features, angular)


@register_flop_formula(torch.ops.foundation.neighbor_sum_steps)
def _(_grad: Any, angular: Any, _radial: Any, features: Any, *_: Any, **__: Any) -> int:
    return 2 * _products(features, angular)


@register_flop_formula(torch.ops.foundation.neighbor_sum_second)
def _(_grad: Any, angular: Any, _radial: Any, features: Any, *_: Any, **__: Any) -> int:
    return 5 * _products(features, angular)


def _largest_error(kernel: Kernel, dtype: torch.dtype) -> float:
    """Of the kernel against matrix products and their derivatives, on numbers at random."""
    generator = torch.Generator().manual_seed(0)
    atoms, width, edge, groups, degrees, channels = 5, 4, 9, 2, 3, 16

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    senders = torch.randint(0, atoms, (atoms * width,), generator=generator)
    slots = _Slots(senders, torch.rand(atoms * width, generator=generator) < 0.8)
    with torch.enable_grad():
        angular = (random(atoms * width, edge, groups) * slots.filled[:, None, None]).requires_grad_()
        radial = random(atoms * width, degrees, channels).requires_grad_()
        features = random(atoms, degrees**2, channels).requires_grad_()
        factors = _Factors(angular, radial, features)
        expected = sum_by_products(*factors, senders)
        grad = torch.randn(expected.shape, generator=generator, dtype=dtype).requires_grad_()
        steps = torch.autograd.grad(expected, factors, grad, create_graph=True)
        others = _Factors(*(random(*one.shape) * (one != 0) for one in factors))
        second = torch.autograd.grad(steps, (grad, *factors), others)
    found = [
        *_call(kernel, 0, None, factors, None, slots),
        *_call(kernel, 1, grad, factors, None, slots),
        *_call(kernel, 2, grad, factors, others, slots),
    ]
    # In slots that are not filled the kernel counts nothing; matrix products still see a radial function there.
    filled = slots.filled[:, None, None]
    wanted = [expected, *steps, *second]
    errors = []
    for own, other in zip(found, wanted, strict=True):
        difference, size = own - other, other
        if len(own) == atoms * width:
            difference, size = difference * filled, size * filled
        errors.append(float((difference.norm() / size.norm()).detach()))
    return max(errors)


_KERNEL = CheckedKernel(Path(__file__).with_suffix(".cpp"), largest_error=_largest_error, allowed=LARGEST_ERROR)
