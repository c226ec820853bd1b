"""The checks of shapes and types that the tests switch on see what is wrong, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from foundation.units import conversion_factor
from tests.shape_checks import check, decorator

if TYPE_CHECKING:
    from nowhere import Unknown

WRONG = (BeartypeCallHintViolation, TypeCheckError)


@check
def scale(vectors: Float[Tensor, "atoms 3"], weights: Float[Tensor, " atoms"]) -> Float[Tensor, "atoms 3"]:
    """Right for weights above zero only."""
    return vectors * weights[:, None] if bool((weights > 0).all()) else weights


@check
def count(items: list[int], _: Unknown) -> Iterator[int]:
    """Yields what it was given."""
    yield from items


@check
@dataclass
class Pair:
    """Two of a kind."""

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]

    @property
    @check
    def size(self) -> int:
        """Not an integer if the first is empty."""
        return len(self.first) or "none"

    @classmethod
    @check
    def of(cls, number: int) -> Pair:
        """Of the same number twice."""
        return cls(torch.full((number,), 1.0), torch.full((number,), 1.0))


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: scale(torch.ones(2, 3), torch.ones(3)), id="sizes that differ"),
        pytest.param(lambda: scale(torch.ones(2, 4), torch.ones(2)), id="a wrong size"),
        pytest.param(lambda: scale(torch.ones(2, 3, dtype=torch.int64), torch.ones(2)), id="a wrong type"),
        pytest.param(lambda: scale(torch.ones(2, 3), -torch.ones(2)), id="a wrong result"),
        pytest.param(lambda: Pair(torch.ones(2), torch.ones(3)), id="a data class"),
        pytest.param(lambda: Pair.of(0).size, id="a property"),
        pytest.param(lambda: Pair.of("two"), id="a class method"),
        pytest.param(lambda: list(count(["one"], None)), id="a generator"),
    ],
)
def test_what_is_wrong_is_found(call: Any) -> None:
    with pytest.raises(WRONG):
        call()


def test_what_is_right_passes_and_sizes_are_forgotten_between_calls() -> None:
    for atoms in (2, 5):
        assert scale(torch.ones(atoms, 3), torch.ones(atoms)).shape == (atoms, 3)
        assert Pair.of(atoms).size == atoms
    assert list(count([1, 2], object())) == [1, 2]


@pytest.mark.skipif(jaxtyping.jaxtyped is not decorator, reason="checks are switched off")
def test_the_program_is_checked() -> None:
    with pytest.raises(WRONG):
        conversion_factor(1, "eV")
