"""Parts of the equivariant backbone and of training done otherwise, for the ablation table.

    python -m benchmarks.backbones.variants.designs gated train tasks/rmd17_n50 …

is the ordinary command line with one part exchanged; a model trained so can be read by this command only, with the same
word. `so2` is described in its own module; the others are a few lines each, below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.backbones.variants.so2 import FrameNeighborSum
from foundation import cli
from foundation.backbones import equivariant
from foundation.backbones.equivariant import ElementPairs, Layer
from foundation.nn.coupling import Coupling, SymmetricCoupling
from foundation.nn.linear import EquivariantLinear, ScaledLinear, over_components
from foundation.training.module import FoundationModule

__all__ = ["DESIGNS", "main"]

NORM_FLOOR = 0.01
"""Added to the mean square under the root: the norm of an atom without neighbours stays smooth."""
LATE = 0.75
"""From which part of the training energies count more."""
LATE_FACTOR = 30.0

DESIGNS: dict[str, Callable[[], None]] = {}
"""Name -> what exchanges the part."""


def _design(apply: Callable[[], None]) -> Callable[[], None]:
    DESIGNS[apply.__name__] = apply
    return apply


@_design
def as_it_is() -> None:
    """Nothing exchanged."""


@_design
def so2() -> None:
    """Sums over neighbours in the frames of edges."""
    equivariant.NeighborSum = FrameNeighborSum  # type: ignore[misc, assignment]


@_design
def unbounded() -> None:
    """Neighbour sums as they come."""
    equivariant.bounded = lambda features: features


@_design
def normalised() -> None:
    """Neighbour sums divided by their root mean square, whatever it is."""
    equivariant.bounded = lambda features: (
        features * torch.rsqrt(features.square().mean(dim=(1, 2), keepdim=True) + NORM_FLOOR)
    )


class _NothingKept(nn.Module):
    def forward(self, features: Tensor, level: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(features)


class _AllKept(nn.Module):
    def forward(self, features: Tensor, level: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return features


@_design
def no_residual() -> None:
    """Layers after the first forget what the one before them made."""
    _after_init(lambda layer: None if layer.is_first else setattr(layer, "natural_keep", _NothingKept()))


@_design
def plain_residual() -> None:
    """Layers after the first add to what the one before them made, without a linear map between."""
    _after_init(lambda layer: None if layer.is_first else setattr(layer, "natural_keep", _AllKept()))


@_design
def low_squares() -> None:
    """Products of two sums only up to the features' degree; sums of a larger one enter the third factor alone."""
    _after_init(_with_low_squares)


def _with_low_squares(layer: Layer) -> None:
    config = layer.config
    degree, top, wide = config.degree, config.product_degree, config.channels
    if config.correlation >= 2:
        layer.square = SymmetricCoupling(top, degree)
        layer.square_linear = EquivariantLinear([paths * wide for paths in layer.square.num_paths], wide)
    if config.correlation >= 3:
        layer.cube = Coupling(range(degree + 1), range(top + 1), degree, kind="even")
        layer.cube_linear = EquivariantLinear([paths * wide for paths in layer.cube.num_paths], wide)


def _after_init(change: Callable[[Any], None]) -> None:
    class Changed(Layer):
        def __init__(self, *arguments: Any, first: bool, **named: Any) -> None:
            super().__init__(*arguments, first=first, **named)
            self.is_first = first
            change(self)

    equivariant.Layer = Changed  # type: ignore[misc]


@_design
def gated() -> None:
    """SiLU on the scalars that leave a layer, sigmoid gates from them on its vectors and tensors."""

    class Gated(Layer):
        def __init__(self, config: Any, **named: Any) -> None:
            super().__init__(config, **named)
            self.gate = ScaledLinear(config.channels, config.degree * config.channels, num_levels=named["apart"])

        def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
            natural, pseudo = super().forward(*arguments, **named)
            scalars = natural[:, 0]
            gates = 2 * torch.sigmoid(self.gate(scalars, named["level"]))
            rest = over_components(
                torch.cat([scalars.new_ones(len(scalars), natural.shape[2]), gates], dim=1).view(
                    len(scalars), self.degree + 1, -1
                ),
                dim=1,
            )
            opened = torch.cat([nn.functional.silu(scalars)[:, None], natural[:, 1:]], dim=1) * rest
            return opened, pseudo

    equivariant.Layer = Gated  # type: ignore[misc]


@_design
def sender_radial() -> None:
    """Radial functions by the sender's element alone; needs `radial_elements: true`."""
    _fixed("receiver")


@_design
def receiver_radial() -> None:
    """Radial functions by the receiver's element alone; needs `radial_elements: true`."""
    _fixed("sender")


def _fixed(end: str) -> None:
    """Leave one end's factors at 1."""

    class OneEnd(ElementPairs):
        def __init__(self, **named: Any) -> None:
            super().__init__(**named)
            ones = getattr(self, end).detach()
            delattr(self, end)
            self.register_buffer(end, ones, persistent=False)

    equivariant.ElementPairs = OneEnd  # type: ignore[misc]


@_design
def late_energy() -> None:
    """Energies count 30 times as much in the last quarter of the training."""
    plain = FoundationModule.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        late = self.trainer.global_step > LATE * self.trainer.estimated_stepping_batches
        factor = LATE_FACTOR if late else 1.0
        for index, objective in enumerate(self.objectives):
            self.weights[index] = objective.weight * (factor if objective.predicts == "energy" else 1.0)
        return plain(self, batch, batch_idx)

    FoundationModule.training_step = step  # type: ignore[method-assign]


def main(arguments: Sequence[str] | None = None) -> int:
    """The ordinary command line with one part exchanged.

    Args:
        arguments: A design, then those of `foundation`; None takes the process's own.

    Returns:
        The exit code; 2 for an unknown design.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in DESIGNS:
        print(f"error: design: got {words[:1]}; allowed: {', '.join(DESIGNS)}", file=sys.stderr)
        return 2
    DESIGNS[words[0]]()
    return cli.main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
