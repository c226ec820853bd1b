"""Radial functions and splines against closed forms and integrals."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.integrate
import scipy.special
import torch

from foundation.electrostatics import radial, splines
from foundation.electrostatics.radial import PairLaw, radial_at_zero, radial_functions

DISTANCES = torch.tensor([0.0, 1e-3, 0.4, 1.6, 1.61, 2.0, 7.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("inverse_screening", [0.0, 0.05, 0.4, 2.5])
def test_functions_of_all_orders_are_the_integrals_over_gaussians(inverse_screening: float) -> None:
    """1/r = 2/√π ∫ e^{−r²t²} dt, and −(1/r) d/dr brings down 2t²; of Gaussians the integral ends at t = 1/2σ."""
    law = PairLaw(0.66, inverse_screening)
    found = radial_functions(DISTANCES.square(), law, orders=5)
    for column, distance in enumerate(DISTANCES.tolist()):
        for order in range(5):

            def integrand(t: float, power: int = order, r: float = distance) -> float:
                exponent = -((r * t) ** 2) + inverse_screening**2 * (law.smearing**2 - 1 / (4 * t * t))
                return 2 / math.sqrt(math.pi) * (2 * t * t) ** power * math.exp(exponent)

            points = [0.0, 1e-2, 0.05, 0.15, 0.4, 1 / (2 * law.smearing)]
            expected = sum(
                scipy.integrate.quad(integrand, a + 1e-15, b, epsrel=1e-13, epsabs=0, limit=200)[0]
                for a, b in itertools.pairwise(points)
            )
            assert found[order, column].item() == pytest.approx(expected, rel=1e-11)
    at_zero = radial_at_zero(law, orders=5)
    torch.testing.assert_close(found[:, 0], torch.tensor(at_zero, dtype=torch.float64), rtol=1e-13, atol=0)


def test_the_first_function_is_the_screened_interaction() -> None:
    r = DISTANCES[2:-1]
    torch.testing.assert_close(
        radial_functions(r**2, PairLaw(0.8, 0.0), orders=1)[0], torch.erf(r / 1.6) / r, rtol=1e-13, atol=0
    )
    law = PairLaw(0.8, 1 / 3)
    left, right = 0.8 / 3 - r / 1.6, 0.8 / 3 + r / 1.6
    closed = torch.exp(-r / 3) * torch.erfc(left) - torch.exp(r / 3) * torch.erfc(right)
    torch.testing.assert_close(
        radial_functions(r**2, law, orders=1)[0], math.exp((0.8 / 3) ** 2) / 2 * closed / r, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("inverse_screening", [0.0, 0.7])
def test_functions_are_differentiated_twice_even_where_atoms_coincide(inverse_screening: float) -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, -0.2], [4.0, 0.0, 1.0]], dtype=torch.float64).requires_grad_()

    def function(vectors: torch.Tensor) -> torch.Tensor:
        return radial_functions(vectors.square().sum(1), PairLaw(1.0, inverse_screening), orders=3)

    assert torch.autograd.gradcheck(function, (vectors,))
    assert torch.autograd.gradgradcheck(function, (vectors,))
    torch.library.opcheck(radial._radial, (vectors.detach().square().sum(1), 1.0, inverse_screening, 2))


@pytest.mark.parametrize("order", [4, 8])
def test_splines_spread_a_point_around_itself(order: int) -> None:
    offsets = torch.linspace(0, 0.999, 7, dtype=torch.float64, requires_grad=True)
    weights = splines.spline_weights(offsets, order=order)
    points = torch.arange(1 - order // 2, order // 2 + 1, dtype=torch.float64)
    torch.testing.assert_close(weights.sum(1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(weights @ points, offsets)
    assert (weights > -1e-15).all()
    # Waves are what the mesh needs: their sum over the grid is sinc^p but for aliases.
    waves = torch.tensor([0.0, 0.05], dtype=torch.float64)
    angles = 2 * math.pi * waves[:, None, None] * (points - offsets[:, None])
    summed = (weights * angles.cos()).sum(2)
    expected = splines.spline_transform(waves, order=order)[:, None].expand_as(summed)
    torch.testing.assert_close(summed, expected, rtol=0, atol=2 * (0.05 / 0.95) ** order + 1e-14)
    torch.testing.assert_close(
        splines.spline_weights(offsets, order=order, derivative=1),
        torch.stack([torch.autograd.grad(weights[:, i].sum(), offsets, retain_graph=True)[0] for i in range(order)], 1),
    )
    inner = offsets[1:].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: splines.spline_weights(x, order=order), (inner,))
    assert torch.autograd.gradgradcheck(lambda x: splines.spline_weights(x, order=order), (inner,))
    torch.library.opcheck(splines._weights, (offsets.detach(), order, 0))


def test_bessel_functions_of_the_wire_are_not_torchs() -> None:
    """The reason for scipy's in `wire_kernel`; should this ever fail, torch's can be used on the device."""
    x = torch.tensor([5.001], dtype=torch.float64)
    assert abs(torch.special.bessel_j0(x).item() - scipy.special.j0(5.001)) > 1e-8
