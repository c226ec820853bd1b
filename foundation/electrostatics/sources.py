"""What makes an electrostatic field, and the field that it makes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Sources:
    """Gaussian charges, and dipoles if there are any, one of each an atom.

    Attributes:
        charges: e.
        dipoles: e·Å; None where atoms carry charges only.
    """

    charges: Float[Tensor, " atoms"]
    dipoles: Float[Tensor, "atoms 3"] | None = None


@dataclass(frozen=True)
class Potential:
    """What each atom feels of all other atoms and of all periodic images, its own included; not of itself.

    Both are averages over the atom's own Gaussian, so that the energy is ½ Σ (q φ − μ·E).

    Attributes:
        values: φ, V (eV/e).
        field: E = −∇φ, V/Å.
    """

    values: Float[Tensor, " atoms"]
    field: Float[Tensor, "atoms 3"]
