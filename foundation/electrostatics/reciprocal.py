"""Crystals, slabs and wires: sums over all k-vectors, without a part in real space, since Gaussians need none.

The energy is Σ_k w(k) |S(k)|², S(k) = Σ_j (q_j + i k·μ_j) e^{ik·r_j}, less what each Gaussian does to itself. The
k-vectors fill a box of integers (n₁, n₂, n₃), so that e^{ik·r} is a product of three tables and S(k) is a matrix
product over atoms: the sums run at the speed of matrix products, not at that of sines.

Source: Ewald, Ann. Phys. 369, 253 (1921), eq. of the reciprocal part; Aguado & Madden, J. Chem. Phys. 119, 7471 (2003),
for dipoles.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.electrostatics.lattice import ReciprocalBox
from foundation.electrostatics.radial import PairLaw, radial_at_zero
from foundation.electrostatics.sources import Sources


def reciprocal_energies(sources: Sources, box: ReciprocalBox, law: PairLaw) -> Float[Tensor, " group"]:
    """Energy of each structure of a group, e²/Å."""
    charges = box.slots.gather(sources.charges)
    dipoles = None if sources.dipoles is None else box.slots.gather(sources.dipoles)
    real, imaginary = _structure_factors(charges, dipoles, box, _wave_tables(box))
    energies = (box.weights * (real.square() + imaginary.square())).sum((1, 2, 3))
    own = radial_at_zero(law, orders=2)
    energies = energies - own[0] / 2 * charges.square().sum(1)
    if dipoles is not None:
        energies = energies - own[1] / 2 * dipoles.square().sum((1, 2))
    return energies


def reciprocal_potential(
    sources: Sources, box: ReciprocalBox, law: PairLaw
) -> tuple[Float[Tensor, "group slots"], Float[Tensor, "group slots 3"]]:
    """Potential and field on the atoms of a group, zero in empty places; e/Å, e/Å²."""
    charges = box.slots.gather(sources.charges)
    dipoles = None if sources.dipoles is None else box.slots.gather(sources.dipoles)
    tables = _wave_tables(box)
    values, field = _back_transform(_structure_factors(charges, dipoles, box, tables), box, tables)
    own = radial_at_zero(law, orders=2)
    values = values - own[0] * charges
    if dipoles is not None:
        field = field + own[1] * dipoles
    filled = box.slots.filled
    return torch.where(filled, values, 0.0), torch.where(filled[:, :, None], field, 0.0)


_Wave = tuple[Tensor, Tensor]
"""Real and imaginary part."""


def _wave_tables(box: ReciprocalBox) -> tuple[_Wave, _Wave]:
    """e^{i(n₁b₁ + n₂b₂)·r}, `[group, slots, n1, n2]`, and e^{i n₃b₃·r}, `[group, slots, n3]`."""
    angles = box.positions @ box.reciprocal.transpose(1, 2)
    first, second, third = (
        torch.polar(torch.ones_like(turn), turn)
        for turn in (angles[:, :, axis, None] * box.orders[axis] for axis in range(3))
    )
    plane = first[:, :, :, None] * second[:, :, None, :]
    return (plane.real, plane.imag), (third.real, third.imag)


def _structure_factors(
    charges: Float[Tensor, "group slots"],
    dipoles: Float[Tensor, "group slots 3"] | None,
    box: ReciprocalBox,
    tables: tuple[_Wave, _Wave],
) -> _Wave:
    """S(k), each part `[group, n1, n2, n3]`."""
    (plane_real, plane_imaginary), line = tables
    amplitudes = charges[:, :, None, None]
    parts = [amplitudes * plane_real, amplitudes * plane_imaginary]
    if dipoles is not None:
        # k·μ = n₁m₁ + n₂m₂ + n₃m₃; the third term is put in after the sum over atoms.
        moments = (dipoles @ box.reciprocal.transpose(1, 2))[:, :, :, None, None]
        lateral = moments[:, :, 0] * box.orders[0][:, None] + moments[:, :, 1] * box.orders[1]
        parts = [parts[0] - lateral * plane_imaginary, parts[1] + lateral * plane_real]
        parts += [moments[:, :, 2] * plane_real, moments[:, :, 2] * plane_imaginary]
    group, num_slots, n1, n2 = plane_real.shape
    left = torch.stack(parts, dim=2).reshape(group, num_slots, -1)
    products = left.transpose(1, 2) @ torch.cat(line, dim=2)
    products = products.reshape(group, len(parts), n1, n2, 2, -1)
    real = products[:, 0, :, :, 0] - products[:, 1, :, :, 1]
    imaginary = products[:, 0, :, :, 1] + products[:, 1, :, :, 0]
    if dipoles is not None:
        real = real - box.orders[2] * (products[:, 2, :, :, 1] + products[:, 3, :, :, 0])
        imaginary = imaginary + box.orders[2] * (products[:, 2, :, :, 0] - products[:, 3, :, :, 1])
    return real, imaginary


def _back_transform(
    factors: _Wave, box: ReciprocalBox, tables: tuple[_Wave, _Wave]
) -> tuple[Float[Tensor, "group slots"], Float[Tensor, "group slots 3"]]:
    """φ_j = Σ 2w Re(S e^{−ik·r_j}) and −∇φ_j = −Σ 2w k Im(S e^{−ik·r_j})."""
    (plane_real, plane_imaginary), (line_real, line_imaginary) = tables
    group, num_slots, n1, n2 = plane_real.shape
    real, imaginary = (2 * box.weights * part for part in factors)
    stacked = torch.stack([real, imaginary, box.orders[2] * real, box.orders[2] * imaginary], dim=1)
    lines = torch.cat([line_real, line_imaginary], dim=1).transpose(1, 2)
    products = (stacked.reshape(group, 4 * n1 * n2, -1) @ lines).reshape(group, 4, n1, n2, 2, num_slots)
    products = products.permute(1, 4, 0, 5, 2, 3)
    sums_real = products[0, 0] + products[1, 1]
    sums_imaginary = products[1, 0] - products[0, 1]
    values = (sums_real * plane_real + sums_imaginary * plane_imaginary).sum((2, 3))
    turned = sums_imaginary * plane_real - sums_real * plane_imaginary
    along_first = (turned.sum(3) * box.orders[0]).sum(2)
    along_second = (turned.sum(2) * box.orders[1]).sum(2)
    third_real = products[2, 0] + products[3, 1]
    third_imaginary = products[3, 0] - products[2, 1]
    along_third = (third_imaginary * plane_real - third_real * plane_imaginary).sum((2, 3))
    field = -torch.stack([along_first, along_second, along_third], dim=2) @ box.reciprocal
    return values, field
