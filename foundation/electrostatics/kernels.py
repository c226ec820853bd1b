"""Fourier transforms of 1/r and e^{−κr}/r, cut off in the directions in which a structure does not repeat.

A slab or a wire is put into a cell with empty space around it, and the interaction is cut off beyond a distance R in
the directions that do not repeat: within R it is exact, and neighbouring cells do not see each other. All formulas are
without the Coulomb constant, Å².

Source: Rozzi et al., Phys. Rev. B 73, 205119 (2006), eqs. 9-17; Ismail-Beigi, Phys. Rev. B 73, 233103 (2006).
"""

from __future__ import annotations

import math

import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor


def bulk_kernel(squared: Float[Tensor, "*shape"], *, inverse_screening: float) -> Float[Tensor, "*shape"]:
    """4π/(k² + κ²).

    Without screening the term of k = 0 is left out: the average potential is zero, and a net charge is neutralised by
    a uniform background.

    Args:
        squared: k², 1/Å².
        inverse_screening: κ, 1/Å.
    """
    if inverse_screening > 0:
        return 4 * math.pi / (squared + inverse_screening**2)
    zero = squared == 0
    return torch.where(zero, 0.0, 4 * math.pi / torch.where(zero, 1.0, squared))


def slab_kernel(
    squared: Float[Tensor, "group n1 n2 1"],
    order: Float[Tensor, " n3"],
    *,
    half_height: Float[Tensor, "group 1 1 1"],
    inverse_screening: float,
) -> Float[Tensor, "group n1 n2 n3"]:
    """The interaction cut off at |z| = R, in a cell of height 2R.

    With q² = k∥² + κ² it is 4π/(q² + k_z²) [1 − e^{−qR} cos k_z R], where k_z = πn/R, and −2πR² where all are zero:
    a charged plane's potential is −2π|z| times its charge density.

    Args:
        squared: k∥², 1/Å².
        order: n.
        half_height: R, Å.
        inverse_screening: κ, 1/Å.
    """
    lateral = squared + inverse_screening**2
    total = lateral + (math.pi * order / half_height).square()
    sign = 1 - 2 * (order.abs() % 2)
    zero = total == 0
    cut = 1 - sign * torch.exp(-lateral.sqrt() * half_height)
    cut = torch.where(order == 0, -torch.expm1(-lateral.sqrt() * half_height), cut)
    return torch.where(zero, -2 * math.pi * half_height.square(), 4 * math.pi * cut / torch.where(zero, 1.0, total))


def wire_kernel(
    axial: Float[Tensor, "group n1 1 1"],
    radial: Float[Tensor, "group 1 n2 n3"],
    *,
    radius: Float[Tensor, "group 1 1 1"],
    inverse_screening: float,
) -> Float[Tensor, "group n1 n2 n3"]:
    """The interaction cut off at a distance R from the axis.

    With q² = k_x² + κ²: 4π/(q² + k⊥²) [1 + k⊥R J₁(k⊥R) K₀(qR) − qR J₀(k⊥R) K₁(qR)]. For q = 0 it is the transform of
    −2 ln(ρ/Å): 4π/k⊥² [1 − J₀(k⊥R) − k⊥R ln(R) J₁(k⊥R)], and −πR² (2 ln R − 1) for k⊥ = 0 too. So a charged line's
    potential is zero at a distance of 1 Å.

    Args:
        axial: |k_x|, 1/Å.
        radial: k⊥, 1/Å.
        radius: R, Å.
        inverse_screening: κ, 1/Å.
    """
    reach = (axial.square() + inverse_screening**2).sqrt()
    # Torch's own J₀ and J₁ are wrong by 4e-7 beyond 5 (torch 2.13).
    arguments = (radial * radius).numpy(force=True)
    bessel_0, bessel_1 = (
        torch.from_numpy(bessel(arguments)).to(radial) for bessel in (scipy.special.j0, scipy.special.j1)
    )
    uniform = reach == 0
    scaled = torch.where(uniform, 1.0, reach * radius)
    modified_0 = torch.special.modified_bessel_k0(scaled)
    modified_1 = scaled * torch.special.modified_bessel_k1(scaled)
    cut = 1 + radial * radius * bessel_1 * modified_0 - bessel_0 * modified_1
    logarithm = radius.log()
    cut_uniform = 1 - bessel_0 - radial * radius * logarithm * bessel_1
    total = reach.square() + radial.square()
    zero = total == 0
    kernel = 4 * math.pi * torch.where(uniform, cut_uniform, cut) / torch.where(zero, 1.0, total)
    return torch.where(zero, -math.pi * radius.square() * (2 * logarithm - 1), kernel)
