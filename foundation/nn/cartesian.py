"""Between irreps and Cartesian tensors."""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn


class CartesianMatrix(nn.Module):
    """3×3 matrix from its irreps (l = 0, 1, 2), each an orthonormal change of basis.

    The l=0 part is the trace/√3, l=1 the antisymmetric part, l=2 the symmetric traceless part.
    """

    def __init__(self, degrees: tuple[int, ...]) -> None:
        super().__init__()
        self.degrees = degrees
        for degree in degrees:
            basis = o3.wigner_3j(1, 1, degree, dtype=torch.float64).permute(2, 0, 1) * (2 * degree + 1) ** 0.5
            if degree == 0:
                basis = basis * torch.sign(basis[0, 0, 0])
            self.register_buffer(f"basis_{degree}", basis.reshape(2 * degree + 1, 9), persistent=False)

    def forward(self, parts: list[Float[Tensor, "rows _m"]]) -> Float[Tensor, "rows 3 3"]:
        """One tensor a degree, `[rows, 2l+1]`."""
        terms = [
            part @ self.get_buffer(f"basis_{degree}").to(part.dtype)
            for degree, part in zip(self.degrees, parts, strict=True)
        ]
        return torch.stack(terms).sum(0).reshape(-1, 3, 3)
