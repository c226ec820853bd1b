"""Sparse maps of components against dense matrices, and couplings of sums against one coupling a degree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foundation.nn import sparse_map
from foundation.nn.coupling import Coupling, SumCoupling
from foundation.nn.sparse_map import SparseMap


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [32, 8, 5, 1])
def test_values_and_derivatives_are_those_of_a_dense_matrix(channels: int, dtype: torch.dtype) -> None:
    assert sparse_map.has_kernel()
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 11, generator=generator, dtype=torch.float64)
    matrix[torch.rand(7, 11, generator=generator) < 0.7] = 0.0
    matrix[3], matrix[:, 10] = 0.0, 0.0  # a row and a column of which nothing is left
    inputs = torch.randn(6, 11, channels, generator=generator, dtype=dtype, requires_grad=True)
    turned = torch.randn(6, 7, channels, generator=generator, dtype=dtype, requires_grad=True)

    def derivatives(outputs: Tensor) -> list[Tensor]:
        (first,) = torch.autograd.grad(outputs, inputs, turned, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), turned)
        return [outputs, first, second]

    own, dense = derivatives(SparseMap(matrix)(inputs)), derivatives(matrix.to(dtype) @ inputs)
    for one, other in zip(own, dense, strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "dense"])
@pytest.mark.parametrize(("edge_degree", "in_degree", "out_degree"), [(3, 2, 3), (2, 0, 2), (1, 1, 0)])
def test_sums_of_all_degrees_are_coupled_as_each_degree_by_itself(
    edge_degree: int, in_degree: int, out_degree: int, *, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        monkeypatch.setattr(sparse_map, "has_kernel", lambda: False)
    atoms, channels = 4, 3
    harmonics = torch.randn(atoms, (edge_degree + 1) ** 2, channels, dtype=torch.float64)
    features = [torch.randn(atoms, 2 * degree + 1, channels, dtype=torch.float64) for degree in range(in_degree + 1)]
    products = [(harmonics[:, :, None] * part[:, None]).flatten(1, 2) for part in features]
    found = SumCoupling(edge_degree, in_degree, out_degree).double()(torch.cat(products, dim=1))
    alone = [
        Coupling(range(edge_degree + 1), [degree], out_degree, kind="even").double()(harmonics, part)
        for degree, part in enumerate(features)
    ]
    for own, parts in zip(found, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(own, torch.cat(parts, dim=2).flatten(2), rtol=1e-12, atol=1e-12)
