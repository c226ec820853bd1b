"""Rows by index and their sums: inside and outside of compiled functions, differentiated twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foundation.nn import gather
from foundation.nn.gather import add_rows, take_rows

INDEX = torch.tensor([2, 0, 2, 1])


@pytest.mark.parametrize("dim", [0, 1])
def test_sums_undo_rows(dim: int) -> None:
    values = torch.randn(3, 3, dtype=torch.float64)
    taken = take_rows(values, INDEX, dim=dim)
    assert torch.equal(taken.select(dim, 2), values.select(dim, 2))
    counts = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    expected = values * (counts[:, None] if dim == 0 else counts)
    torch.testing.assert_close(add_rows(taken, INDEX, size=3, dim=dim), expected)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("direction", ["take", "add"])
def test_the_operators_of_compiled_functions_are_right_to_the_second_derivative(direction: str, dim: int) -> None:
    values = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def function(values: Tensor) -> Tensor:
        if direction == "take":
            return gather._take(values, INDEX, dim).pow(3)
        return gather._add(values.pow(2), INDEX, 3, dim).pow(2)

    assert torch.autograd.gradcheck(function, (values,))
    assert torch.autograd.gradgradcheck(function, (values,))
    operator, arguments = (
        (gather._take, (values, INDEX, dim)) if direction == "take" else (gather._add, (values, INDEX, 3, dim))
    )
    torch.library.opcheck(operator, arguments)
