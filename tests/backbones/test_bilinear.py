"""Sparse products of components against dense matrices: values and derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foundation.nn import bilinear
from foundation.nn.coupling import Coupling, SymmetricCoupling

Function = Callable[[Tensor, Tensor], Tensor]


def joined(coupling: Coupling) -> Function:
    return lambda left, right: torch.cat([part.flatten(1, 2) for part in coupling(left, right)], dim=1)


def derivatives(function: Function, factors: list[Tensor]) -> list[Tensor]:
    """The values, their derivatives, the derivatives of those and once more: of everything, turned at random."""
    generator = torch.Generator().manual_seed(1)
    inputs = [one.clone().requires_grad_() for one in factors]
    outputs = [function(*inputs)]
    found = list(outputs)
    for _ in range(3):
        turned = [torch.randn(one.shape, generator=generator, dtype=one.dtype).requires_grad_() for one in outputs]
        outputs = list(torch.autograd.grad(outputs, inputs, turned, create_graph=True))
        inputs = [*inputs, *turned]
        outputs = [one for one in outputs if one.requires_grad]
        found += outputs
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [32, 8, 6, 1])
@pytest.mark.parametrize("kind", ["even", "odd"])
def test_values_and_three_derivatives_are_those_of_a_dense_matrix(
    kind: str, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bilinear.has_kernel()
    coupling = Coupling(range(3), range(4), 2, kind=kind).to(dtype)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(5, size, channels, generator=generator, dtype=dtype) for size in (9, 16)]
    own = derivatives(joined(coupling), factors)
    monkeypatch.setattr(bilinear, "has_kernel", lambda: False)
    dense = derivatives(joined(coupling), factors)
    assert len(own) == len(dense) >= 7
    for one, other in zip(own, dense, strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max() + 1))


def test_derivatives_are_those_of_finite_differences() -> None:
    factors = [torch.randn(2, size, 4, dtype=torch.float64, requires_grad=True) for size in (4, 9)]
    coupling = joined(Coupling(range(2), range(3), 2, kind="even").double())
    assert torch.autograd.gradcheck(coupling, factors)
    assert torch.autograd.gradgradcheck(coupling, factors)


def test_squares_are_those_of_a_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    coupling = SymmetricCoupling(2, 2).double()

    def squares(features: Tensor, _: Tensor) -> Tensor:
        return torch.cat([part.flatten(1, 2) for part in coupling(features)], dim=1)

    features = torch.randn(4, 9, 8, dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(squares(features, features))
    own = torch.autograd.grad(squares(features, features), features, grad, create_graph=True)[0]
    second = torch.autograd.grad(own.square().sum(), features)[0]
    monkeypatch.setattr(bilinear, "has_kernel", lambda: False)
    dense = torch.autograd.grad(squares(features, features), features, grad, create_graph=True)[0]
    torch.testing.assert_close(own, dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, torch.autograd.grad(dense.square().sum(), features)[0], rtol=1e-12, atol=1e-12)
