"""What is measured: sizes, modes, precisions and inputs, for a GPU and, much smaller, to try the program anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "FULL",
    "MODES",
    "PRECISIONS",
    "QUICK",
    "RIVAL_ROWS",
    "Group",
    "Inputs",
    "Mode",
    "Precision",
    "Rival",
    "groups",
]

Mode = Literal["eager", "compile"]
Precision = Literal["float32", "tf32", "bf16"]
MODES: tuple[Mode, ...] = ("eager", "compile")
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")
"""float32: everything. tf32: matrix products of float32 arrays in TF32. bf16: the forward pass, forces included, under
`torch.autocast` with bfloat16. Differences of positions, reference energies and sums over atoms are float64 in all."""


@dataclass(frozen=True)
class Inputs:
    """What each model is run on.

    Attributes:
        batch_sizes: Aspirin molecules of a training step.
        water_sides: Molecules along the side of a periodic box of water; 4, 8, 16: 192, 1,536, 12,288 atoms.
        repetitions: Of each timing.
        max_seconds: After this long no further repetition is begun, once there are three.
    """

    batch_sizes: Sequence[int]
    water_sides: Sequence[int]
    repetitions: int
    max_seconds: float


FULL = Inputs(batch_sizes=(8, 32, 128, 512), water_sides=(4, 8, 16), repetitions=25, max_seconds=20.0)
QUICK = Inputs(batch_sizes=(1, 2), water_sides=(2,), repetitions=3, max_seconds=1.0)


@dataclass(frozen=True)
class Group:
    """One of our models in one mode and precision: a process of its own.

    Attributes:
        recipe: Names the size.
        mode: Eager or compiled.
        precision: Of the forward pass.
        device: Where.
    """

    recipe: str
    mode: Mode
    precision: Precision
    device: str

    @property
    def row(self) -> str:
        """Name of its file of results."""
        return f"{self.recipe.removesuffix('.yaml').rsplit('/', 1)[-1]}-{self.mode}-{self.precision}"


@dataclass(frozen=True)
class Rival:
    """A rival's row.

    Attributes:
        model: Its name in `benchmarks/backbones/rows.yaml`.
        mode: As its program has it.
        acceleration: `cuequivariance` exchanges mace's operators for cuEquivariance's.
    """

    model: str
    mode: Mode
    acceleration: Literal["cuequivariance"] | None = None

    @property
    def row(self) -> str:
        """Name of its file of results."""
        return f"{self.model}-{self.mode}" + (f"-{self.acceleration}" if self.acceleration else "")


RIVAL_ROWS = (
    Rival("mace-64", "eager"),
    Rival("mace-64", "eager", "cuequivariance"),
    Rival("nequip-l1", "compile"),
    Rival("nequip-preset-s", "compile"),
)


def groups(
    *, recipes: tuple[str, ...], modes: tuple[Mode, ...], precisions: tuple[Precision, ...], device: str
) -> list[Group]:
    """All combinations, the plainest first."""
    return [Group(recipe, mode, precision, device) for mode in modes for precision in precisions for recipe in recipes]
