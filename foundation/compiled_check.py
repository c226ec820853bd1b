"""Whether a compiled path does what the eager one does: outputs, and gradients of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from foundation.data.graph import AtomGraph
from foundation.model import FoundationModel

__all__ = ["difference", "shaken"]

LARGEST_ERROR = 1e-4
"""Of an output on a compiled path against the eager one, relative to its norm."""
LARGEST_GRADIENT_ERROR = 1e-3
"""The same for the gradient of a weight, whose float32 rounding is larger; naive traces are wrong by a per cent."""
NOISE_FACTOR = 20.0
"""How many times the rounding error of the eager path the compiled one may differ from it, below `LARGEST_ERROR`."""
SMALLEST_ERROR = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Differences that are allowed in any case."""
SHAKE = 0.3
"""How far weights are moved for the comparison: fresh readouts are zero, and zero forces compare equal to anything."""


@contextmanager
def shaken(model: FoundationModel) -> Iterator[None]:
    """Within this context the weights are moved at random; afterwards they are what they were, bit for bit.

    They also count as never changed, as outputs of another view of the batch may still wait to be differentiated.
    """
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    with _unsafe_preserve_version_counter(tuple(model.parameters())):
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((SHAKE * noise).to(parameter))
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), kept, strict=True):
                    parameter.copy_(value)


def difference(
    model: FoundationModel,
    evaluate: Callable[[AtomGraph, frozenset[str]], dict[str, Tensor]],
    graph: AtomGraph,
    asked: frozenset[str],
    *,
    create_graph: bool,
) -> str | None:
    """What a compiled path gets wrong, outputs first, then gradients of weights; None if nothing.

    How much two orders of the same sums may differ is measured: on the eager path in its own and in double precision.
    """
    dtype = next(model.parameters()).dtype
    precise = copy.deepcopy(model).double()
    outputs = model(graph, properties=asked, create_graph=create_graph)
    found = evaluate(graph, asked)
    exact = precise(graph, properties=asked, create_graph=create_graph)
    for name in sorted(asked):
        what = f"'{name}'"
        problem = _compare(what, found[name], outputs[name], exact[name], dtype=dtype)
        if problem is not None:
            return problem
    if not create_graph:
        return None
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = _gradients(model, outputs), _gradients(precise, exact)
    compiled_gradients = _gradients(model, found)
    floor = 1e-3 * float(torch.stack([one.double().norm() for one in gradients[0]]).norm())
    for place, name in enumerate(names):
        eager, exact_one = gradients[0][place], gradients[1][place]
        what = f"the gradient of weight '{name}'"
        problem = _compare(
            what, compiled_gradients[place], eager, exact_one, dtype=dtype, largest=LARGEST_GRADIENT_ERROR, floor=floor
        )
        if problem is not None:
            return problem
    return None


def _gradients(model: FoundationModel, outputs: dict[str, Tensor]) -> list[Tensor]:
    """Of a random mixture of all outputs, each with the same share; zero where a weight has no part in them."""
    generator = torch.Generator().manual_seed(1)
    total = next(iter(outputs.values())).new_zeros((), dtype=torch.float64)
    for name in sorted(outputs):
        values = outputs[name].double()
        weights = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device)
        finite = torch.isfinite(values)
        size = values.detach()[finite].square().sum().sqrt().clamp(min=1e-12)
        total = total + torch.where(finite, weights * values, 0.0).sum() / size
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if one is None else one for parameter, one in zip(parameters, found, strict=True)
    ]


def _compare(
    what: str,
    found: Tensor,
    eager: Tensor,
    exact: Tensor,
    *,
    dtype: torch.dtype,
    largest: float = LARGEST_ERROR,
    floor: float = 1e-12,
) -> str | None:
    found, eager, exact = (one.detach().double() for one in (found, eager, exact))
    if found.shape != eager.shape or not torch.equal(torch.isfinite(found), torch.isfinite(eager)):
        return f"{what} has another shape or other undefined entries than on the eager path"
    finite = torch.isfinite(eager)
    size = max(float(eager[finite].norm()), floor)
    noise = float((eager - exact)[finite].norm()) / size
    error = float((found - eager)[finite].norm()) / size
    allowed = max(SMALLEST_ERROR.get(dtype, largest), min(largest, NOISE_FACTOR * noise))
    if error <= allowed:
        return None
    return f"{what} differs from the eager path by {error:.1e} of its size, allowed {allowed:.1e}"
