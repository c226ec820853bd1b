"""Pauling electronegativities: which atoms take electrons from which, before anything is learnt."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["pauling_electronegativities"]

UNKNOWN = 2.20
"""Of atoms without a value: helium, neon and argon, which form no bonds to tell it by; that of hydrogen."""
_VALUES = (
    *(2.20, UNKNOWN),
    *(0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, UNKNOWN),
    *(0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, UNKNOWN),
    *(0.82, 1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.00),
    *(0.82, 0.95, 1.22, 1.33, 1.60, 2.16, 1.90, 2.20, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.10, 2.66, 2.60),
    *(0.79, 0.89),
    *(1.10, 1.12, 1.13, 1.14, 1.13, 1.17, 1.20, 1.20, 1.10, 1.22, 1.23, 1.24, 1.25, 1.10, 1.27),
    *(1.30, 1.50, 2.36, 1.90, 2.20, 2.20, 2.28, 2.54, 2.00, 1.62, 2.33, 2.02, 2.00, 2.20, 2.20),
    *(0.79, 0.90, 1.10, 1.30, 1.50, 1.38, 1.36, 1.28, 1.30),
)
_BEYOND = 1.30
"""Of elements after americium, for which none are tabulated."""


def pauling_electronegativities(num_atomic_numbers: int) -> Float[Tensor, " numbers"]:
    """Electronegativity by atomic number, Pauling's scale; the place of number 0 holds `UNKNOWN`.

    Source: CRC Handbook of Chemistry and Physics, 84th edition, section 9 (values of Pauling and Allred).
    """
    table = torch.full((num_atomic_numbers,), _BEYOND, dtype=torch.float64)
    table[0] = UNKNOWN
    table[1 : len(_VALUES) + 1] = torch.tensor(_VALUES, dtype=torch.float64)
    return table
