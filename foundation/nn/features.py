"""`Features`: what a backbone gives and all that a head sees."""

from __future__ import annotations

from dataclasses import dataclass

from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class FeatureLayout:
    """The shape of a backbone's features, known before any of them is computed.

    Attributes:
        degree: Largest l.
        natural_channels: Channels of each l with parity (-1)^l: 0e, 1o, 2e, …
        pseudo_channels: Channels of each l with parity -(-1)^l: 0o, 1e, 2o, …; zero if blind to handedness.
        num_levels: Levels of theory for each of which whatever reads them has weights of its own; 0: the same for all.
    """

    degree: int
    natural_channels: int
    pseudo_channels: int
    num_levels: int = 0

    def channels(self, degree: int, parity: int) -> int:
        """Number of channels with this l and parity (+1 even, -1 odd); zero if l is too large."""
        if degree > self.degree:
            return 0
        return self.natural_channels if parity == (-1) ** degree else self.pseudo_channels

    @property
    def irreps(self) -> o3.Irreps:
        """In e3nn's notation, channel-major multiplicities in order of l, natural first."""
        parts: list[tuple[int, tuple[int, int]]] = []
        for degree in range(self.degree + 1):
            parts.append((self.natural_channels, (degree, (-1) ** degree)))
            parts.append((self.pseudo_channels, (degree, -((-1) ** degree))))
        irreps = o3.Irreps([part for part in parts if part[0] > 0])
        assert isinstance(irreps, o3.Irreps)
        return irreps


@dataclass(frozen=True)
class Features:
    """Equivariant features of every atom, both parities.

    Components (l, m) follow e3nn's real basis (l=1 is x, y, z), component normalised.

    Attributes:
        natural: `[atoms, (degree+1)², natural_channels]`.
        pseudo: `[atoms, (degree+1)², pseudo_channels]`.
        layout: Their shape.
        level: Number of the one level of theory that the batch has; None where no weights depend on it.
    """

    natural: Float[Tensor, "atoms components natural_channels"]
    pseudo: Float[Tensor, "atoms components pseudo_channels"]
    layout: FeatureLayout
    level: Int[Tensor, " one"] | None = None

    def select(self, degree: int, parity: int) -> Float[Tensor, "atoms m channels"]:
        """All channels with this l and parity (+1 even, -1 odd), `[atoms, 2l+1, channels]`."""
        assert degree <= self.layout.degree, f"l={degree} asked of features with l<={self.layout.degree}"
        tower = self.natural if parity == (-1) ** degree else self.pseudo
        return tower[:, degree**2 : (degree + 1) ** 2]

    @property
    def scalars(self) -> Float[Tensor, "atoms natural_channels"]:
        """True scalars (0e)."""
        return self.natural[:, 0]

    @property
    def pseudoscalars(self) -> Float[Tensor, "atoms pseudo_channels"]:
        """Pseudoscalars (0o)."""
        return self.pseudo[:, 0]
