"""The kernel for neighbour sums against matrix products: values and derivatives, and what happens without it."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundation.data.graph import build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel
from foundation.nn import native, neighbor_sum

SIZES = [
    (7, 5, 4, 16, 3, 32),
    (7, 5, 4, 16, 3, 8),
    (5, 3, 3, 9, 2, 6),
    (4, 3, 1, 16, 5, 5),
    (3, 4, 2, 9, 4, 64),
    (2, 1, 1, 1, 1, 1),
]
"""Atoms, slots of each, groups, components of harmonics, degrees, channels."""


def random_factors(
    atoms: int, width: int, groups: int, edge: int, degrees: int, channels: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Factors, zero in slots that are not filled, and slots."""
    generator = torch.Generator().manual_seed(atoms + channels)
    filled = torch.rand(atoms * width, generator=generator) < 0.7
    senders = torch.randint(0, atoms, (atoms * width,), generator=generator)
    shapes = [(atoms * width, edge, groups), (atoms * width, degrees, channels), (atoms, degrees**2, channels)]
    factors = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]
    factors = [one * filled[:, None, None] if len(one) == len(filled) else one for one in factors]
    return [one.requires_grad_() for one in factors], [senders, filled]


def derivatives(sums: Tensor, factors: list[Tensor], filled: Tensor, order: int) -> list[Tensor]:
    """The sums, their derivatives, the derivatives of those, …: of all factors at once, turned at random each time.

    Steps of factors in slots that are not filled are left out, and nothing is derived by them.
    """
    generator = torch.Generator().manual_seed(1)
    found, outputs, inputs = [sums], [sums], list(factors)
    for _ in range(order):
        turned = [torch.randn(one.shape, generator=generator, dtype=one.dtype).requires_grad_() for one in outputs]
        turned = [one * filled[:, None, None] if len(one) == len(filled) else one for one in turned]
        outputs = list(torch.autograd.grad(outputs, inputs, turned, create_graph=True, allow_unused=True))
        outputs = [
            one * filled[:, None, None] if len(one) == len(filled) else one for one in outputs if one is not None
        ]
        found += outputs
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_three_derivatives_are_those_of_products(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    assert neighbor_sum.has_kernel()
    factors, (senders, filled) = random_factors(*sizes, dtype=dtype)
    own = neighbor_sum.neighbor_sum(*factors, senders, filled)
    products = neighbor_sum.sum_by_products(*factors, senders)
    found = derivatives(own, factors, filled, 3)
    expected = derivatives(products, factors, filled, 3)
    assert len(found) == len(expected) >= 7
    for one, other in zip(found, expected, strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max() + 1))


def test_derivatives_are_those_of_finite_differences() -> None:
    factors, (senders, filled) = random_factors(3, 2, 2, 4, 2, 4, dtype=torch.float64)
    filled[:] = True  # an angular part in an empty slot moves nothing by contract

    def sums(*moved: Tensor) -> Tensor:
        return neighbor_sum.neighbor_sum(*moved, senders, filled)

    assert torch.autograd.gradcheck(sums, factors)
    assert torch.autograd.gradgradcheck(sums, factors)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_agree_and_repeat_themselves_to_the_bit() -> None:
    factors, slots = random_factors(60, 12, 4, 16, 3, 32, dtype=torch.float32)

    def once() -> list[Tensor]:
        return derivatives(neighbor_sum.neighbor_sum(*factors, *slots), factors, slots[1], 2)

    two, again = once(), once()
    torch.set_num_threads(1)
    for one, other, single in zip(two, again, once(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, single, rtol=1e-5, atol=1e-5 * float(single.detach().abs().max()))


def test_a_model_is_the_same_function_with_and_without(
    make_model: Callable[..., FoundationModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model({"energy": {"kind": "energy"}}).double()
    generator = torch.Generator().manual_seed(3)
    graphs = [
        with_neighbors(
            build_graph(
                positions=3.0 * torch.rand(size, 3, generator=generator).double().numpy(),
                atomic_numbers=[(1, 6, 7, 8)[index % 4] for index in range(size)],
                total_charge=0.0,
                spin_multiplicity=1,
            ),
            model.cutoff,
        )
        for size in (1, 7, 4)
    ]

    def evaluated() -> list[Tensor]:
        model.zero_grad()
        found = model(collate(graphs), properties=("energy", "forces"), create_graph=True)
        (found["energy"].sum() + found["forces"].square().sum()).backward()
        grads = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        return [found["energy"].detach(), found["forces"].detach(), *grads]

    own = evaluated()
    monkeypatch.setattr(neighbor_sum, "has_kernel", lambda: False)
    for one, other in zip(own, evaluated(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max() + 1e-30))


def test_without_a_compiler_or_with_one_that_fails_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "kernel.cpp"
    source.write_text("this is no C++", encoding="utf-8")
    monkeypatch.setenv(native.SWITCH, str(tmp_path / "kept"))
    with caplog.at_level(logging.WARNING):
        assert native.build(source) is None
        assert "the fast kernels for CPUs are not used" in caplog.text
        assert "error" in caplog.text
        caplog.clear()
        monkeypatch.setenv("CXX", "no-such-compiler")
        assert native.build(source) is None
        assert "no C++ compiler" in caplog.text
        caplog.clear()
        monkeypatch.setenv(native.SWITCH, "off")
        assert native.build(source) is None
        assert not caplog.text
    assert not list((tmp_path / "kept").glob("*.so"))


def test_a_kernel_is_built_once_and_anew_for_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "kernel.cpp"
    source.write_text('extern "C" int answer() { return 42; }', encoding="utf-8")
    monkeypatch.setenv(native.SWITCH, str(tmp_path / "kept"))
    calls = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: (calls.append(args[0]), run(*args, **kwargs))[1])
    for _ in range(2):
        library = native.build(source)
        assert library is not None
        assert library.answer() == 42
    assert sum("-shared" in call for call in calls) == 1
    source.write_text('extern "C" int answer() { return 43; }', encoding="utf-8")
    library = native.build(source)
    assert library is not None
    assert library.answer() == 43


@pytest.mark.ci
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("total[a][b] += angular[a] * messages[b]", "total[a][b] += angular[a] * messages[b] * T(1.001)"),
        ("slope += u[b] * V::load(arrays.other_features + features);", ""),
    ],
    ids=["sums", "second derivatives alone"],
)
def test_a_planted_wrong_kernel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, right: str, wrong: str
) -> None:
    assert shutil.which("c++") or shutil.which("g++")
    source = Path(neighbor_sum.__file__).with_suffix(".cpp").read_text(encoding="utf-8")
    assert source.count(right) == 1
    (tmp_path / "neighbor_sum.cpp").write_text(source.replace(right, wrong), encoding="utf-8")
    monkeypatch.setenv(native.SWITCH, str(tmp_path / "kept"))
    monkeypatch.setattr(native, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in native.FLAGS))
    planted = native.CheckedKernel(
        tmp_path / "neighbor_sum.cpp",
        largest_error=neighbor_sum._largest_error,
        allowed=neighbor_sum.LARGEST_ERROR,
    )
    with monkeypatch.context() as replaced, caplog.at_level(logging.WARNING):
        replaced.setattr(neighbor_sum, "_KERNEL", planted)
        assert not neighbor_sum.has_kernel()
    assert "differs from torch's operators" in caplog.text
    assert neighbor_sum.has_kernel()
