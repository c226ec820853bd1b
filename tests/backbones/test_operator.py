"""Operators of our own: the short way of eager use gives what the registered operator gives, and counters see them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foundation.nn.operator import Operator


@pytest.fixture(scope="module")
def cube() -> Operator:
    """x³ and, its derivative made of itself, 3 x² by the same function."""

    def run(values: Tensor, power: int) -> Tensor:
        return values**power

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        values, ctx.power = inputs
        ctx.save_for_backward(values)

    made = Operator("foundation_tests::power", "(Tensor values, int power) -> Tensor", run)
    made.register_fake(lambda values, _: values.new_empty(values.shape))
    made.register_autograd(
        lambda ctx, grad: (grad * ctx.power * made(*ctx.saved_tensors, ctx.power - 1), None), setup_context=keep
    )
    return made


class Names(TorchDispatchMode):
    """Notes every operator that is called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_values_and_derivatives_are_right_and_the_same_within_a_counter(cube: Operator) -> None:
    values = torch.tensor([1.5, -2.0], dtype=torch.float64, requires_grad=True)

    def everything() -> list[Tensor]:
        third = cube(values, 3)
        first = torch.autograd.grad(third.sum(), values, create_graph=True)[0]
        return [third, first, torch.autograd.grad(first.sum(), values)[0]]

    eager = everything()
    with Names() as seen:
        counted = everything()
    for own, other, expected in zip(eager, counted, (values**3, 3 * values**2, 6 * values), strict=True):
        torch.testing.assert_close(own, expected)
        assert torch.equal(own, other)
    assert seen.names.count("foundation_tests.power.default") == 3


def test_nothing_is_recorded_where_gradients_are_off(cube: Operator) -> None:
    values = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not cube(values, 3).requires_grad
