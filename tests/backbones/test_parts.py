"""Harmonics, splines and couplings against what defines them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3

from foundation.data.graph import build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel
from foundation.nn import edge_radial, splines
from foundation.nn.coupling import Coupling, SymmetricCoupling, coupling_paths
from foundation.nn.linear import over_components
from foundation.nn.spherical import SphericalHarmonics
from foundation.nn.splines import SplineBasis


@pytest.mark.parametrize("degree", range(7))
def test_harmonics_are_those_of_e3nn_and_finite_at_the_poles(degree: int) -> None:
    poles = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    random = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    vectors = torch.cat([poles, random]).requires_grad_()
    found = SphericalHarmonics(degree)(vectors)
    expected = o3.spherical_harmonics(list(range(degree + 1)), vectors, normalize=False, normalization="component")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if degree:
        assert torch.autograd.gradcheck(SphericalHarmonics(degree), vectors[:8].detach().requires_grad_())
        assert torch.autograd.gradgradcheck(SphericalHarmonics(degree), vectors[:8].detach().requires_grad_())


@pytest.mark.parametrize("number", [0, 3], ids=["one table", "tables"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_kernel_adds_the_splines_of_the_matrix(dtype: torch.dtype, number: int) -> None:
    assert splines.has_kernel()
    basis = SplineBasis(0.2, 5.0)
    generator = torch.Generator().manual_seed(0)
    distances = torch.cat([torch.rand(400, generator=generator) * 7, torch.tensor([0.0, 5.0, 17.3])]).to(dtype)
    values = torch.randn(*[number] * (number > 0), len(basis.knots), 7, generator=generator, dtype=dtype)
    tables = torch.randint(number, (len(distances),), generator=generator) if number else None
    turned = torch.randn(len(distances), 7, generator=generator, dtype=dtype)

    def derivatives(at: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """Of values and distances, the second ones by everything."""
        moved, given = distances.clone().requires_grad_(), values.clone().requires_grad_()
        by = turned.clone().requires_grad_()
        found = splines.interpolated(given, at(moved), tables)
        first = torch.autograd.grad(found, (given, moved), by, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), (given, moved, by))
        return [found, *first, *second]

    assert basis.at(distances).shape == distances.shape
    for one, other in zip(derivatives(basis.at), derivatives(basis), strict=True):
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


def test_interpolation_has_the_derivatives_of_finite_differences_and_keeps_nan() -> None:
    basis = SplineBasis(1.0, 4.0)
    distances = (torch.rand(12, dtype=torch.float64) * 6).requires_grad_()
    values = torch.randn(2, len(basis.knots), 3, dtype=torch.float64, requires_grad=True)

    def interpolated(values: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        return splines.interpolated(values, basis.at(distances), torch.arange(len(distances)) % 2)

    assert torch.autograd.gradcheck(interpolated, (values, distances))
    assert torch.autograd.gradgradcheck(interpolated, (values, distances))
    lost = interpolated(values.detach(), torch.tensor([1.0, torch.nan], dtype=torch.float64))
    assert torch.isfinite(lost[0]).all()
    assert torch.isnan(lost[1]).all()


def test_splines_keep_straight_lines_and_have_four_continuous_derivatives() -> None:
    spline_basis = SplineBasis(0.2, 5.0)
    distances = torch.linspace(0, 5, 300).double()
    basis = spline_basis(distances)
    torch.testing.assert_close(basis.sum(1), torch.ones_like(distances), rtol=0, atol=1e-12)
    torch.testing.assert_close(basis @ spline_basis.knots, distances, rtol=0, atol=1e-12)
    assert not spline_basis(torch.tensor([6.11, 17.3])).any()

    # At knots a piece ends and the next begins: on them, and closely on both sides, all derivatives are the same.
    knots, values = spline_basis.knots[3:-3], torch.randn(len(spline_basis.knots), dtype=torch.float64)
    places = torch.cat([knots - 1e-9, knots, knots + 1e-9]).requires_grad_()
    found = spline_basis(places) @ values
    for order in range(5):
        before, on, after = found.detach().chunk(3)
        size = float(on.abs().max())
        torch.testing.assert_close(before, on, rtol=0, atol=1e-6 * size, msg=f"derivative {order}, below")
        torch.testing.assert_close(after, on, rtol=0, atol=1e-6 * size, msg=f"derivative {order}, above")
        if order < 4:
            (found,) = torch.autograd.grad(found.sum(), places, create_graph=True)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_symmetric_coupling_is_the_coupling_of_features_with_themselves(degree: int) -> None:
    features = torch.randn(4, (degree + 1) ** 2, 3, dtype=torch.float64)
    degrees = range(degree + 1)
    full = Coupling(degrees, degrees, degree, kind="even").double()(features, features)
    part = SymmetricCoupling(degree, degree).double()(features)
    for order in degrees:
        every = coupling_paths(degrees, degrees, order, "even")
        once = coupling_paths(degrees, degrees, order, "even", ordered=False)
        kept = [every.index(path) for path in once]
        assert part[order].shape[2] == len(once)
        torch.testing.assert_close(part[order], full[order][:, :, kept])


@pytest.mark.parametrize("with_pseudo", [True, False])
def test_tables_for_pairs_of_elements_give_what_every_edge_by_itself_gives(
    make_model: Callable[..., FoundationModel], monkeypatch: pytest.MonkeyPatch, with_pseudo: bool
) -> None:
    positions = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 1.5
    graph = build_graph(
        positions=positions.numpy(), atomic_numbers=[6, 1, 7, 8, 1, 6], total_charge=0.0, spin_multiplicity=1
    )
    model = make_model({"energy": {"kind": "energy"}}).double()
    assert edge_radial.few_enough(len(model.config.elements), len(model.backbone.splines.knots))
    batch = collate([with_neighbors(graph, model.cutoff)])
    results = []
    for most in (edge_radial.MOST_ROWS, 0):
        monkeypatch.setattr(edge_radial, "MOST_ROWS", most)
        model.zero_grad()
        batch.positions.requires_grad_().grad = None
        features = model.backbone(batch, with_pseudo=with_pseudo)
        (features.natural.square().sum() + features.pseudo.square().sum()).backward()
        weights = [one.grad for one in model.backbone.parameters() if one.grad is not None]
        results.append([features.natural, features.pseudo, batch.positions.grad, *weights])
    assert len(results[0]) > 20
    for one, other in zip(*results, strict=True):
        size = float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * size)


def test_values_of_degrees_are_repeated_for_their_components() -> None:
    values = torch.arange(6.0).view(2, 3)
    expected = values[:, [0, 1, 1, 1, 2, 2, 2, 2, 2]]
    assert torch.equal(over_components(values, dim=1), expected)
    assert torch.equal(over_components(values.T), expected.T)


@pytest.mark.parametrize("by_elements", [False, True])
def test_close_knots_give_what_the_radial_network_gives_at_every_edge(
    make_model: Callable[..., FoundationModel], by_elements: bool
) -> None:
    positions = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 1.5
    graph = build_graph(
        positions=positions.numpy(), atomic_numbers=[6, 1, 7, 8, 1, 6], total_charge=0.0, spin_multiplicity=1
    )
    heads = {"energy": {"kind": "energy"}}
    forces = {}
    for spacing in (None, 0.4, 0.1, 0.025):
        model = make_model(heads, radial_spacing=spacing, radial_elements=by_elements).double()
        forces[spacing] = model(collate([with_neighbors(graph, model.cutoff)]), properties=("energy", "forces"))[
            "forces"
        ]
    size = forces[None].abs().max()
    errors = [float((forces[spacing] - forces[None]).abs().max() / size) for spacing in (0.4, 0.1, 0.025)]
    # The error falls with the square of the spacing.
    assert errors[2] < (1e-2 if by_elements else 2e-3)  # factors drawn at random make radial functions steeper
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.2)
    assert errors[0] > errors[1]
