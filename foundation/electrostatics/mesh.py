"""Large periodic structures: the same sums over k-vectors by fast Fourier transform of a grid.

Charges and dipoles are spread over a grid with B-splines and their derivatives; the transform of the grid, divided by
that of the spline, is S(k). This is exact but for aliases, waves that look alike on the grid. The sum is therefore
formed on two grids half a spacing apart, in whose mean the nearest aliases cancel: splines of order 8 then reach what
order 16 does on one grid, at an eighth of the work. The grid follows the cell; where its number of points changes, the
energy steps by no more than its error.

Measured on water with random dipoles, σ = 1 Å, against the direct sum: 1,536 atoms, energy 2e-9 eV of 2,000 eV,
forces 3e-9, fields 8e-10 (relative). One thread, energy, forces and their derivative, with dipoles (without), mesh
against direct sum: 192 atoms 14 (11) ms against 15 (9), 384 atoms 23 (20) against 38 (18), 768 atoms 35 (28) against
150 (85), 1,536 atoms 65 (64) against 690 (300); 12,288 atoms 850 ms and 0.7 GB.

Source: Essmann et al., J. Chem. Phys. 103, 8577 (1995); Toukmaji et al., ibid. 113, 10913 (2000), for dipoles; two
grids: Hockney & Eastwood, Computer Simulation Using Particles (1988), section 7-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.fft
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics.lattice import TAIL, PeriodicGroup, completed_cells, energy_weights
from foundation.electrostatics.radial import PairLaw, radial_at_zero
from foundation.electrostatics.slots import Slots, atom_slots
from foundation.electrostatics.sources import Sources
from foundation.electrostatics.splines import spline_transform, spline_weights
from foundation.nn.gather import add_rows, take_rows

SPLINE_ORDER = 8
SPACING = 0.45
"""The largest of the grid, in units of σ."""


@dataclass(frozen=True)
class Mesh:
    """A structure's grid.

    Attributes:
        slots: Its atoms, a single row.
        reciprocal: Rows b, 1/Å.
        shape: Grid points in each direction.
        weights: Twice the weight of each k-vector in the energy, spread and read through splines, `[n1, n2, n3]`.
        halves: ½ for k-vectors that stand for themselves only, 1 for those that stand for −k too.
        turns: e^{i…} by which the waves of the second grid, half a spacing away, are behind.
        points: Grid point below each atom, on either grid.
        offsets: Distance of the atom from it, in units of the spacing.
    """

    slots: Slots
    reciprocal: Float[Tensor, "3 3"]
    shape: tuple[int, int, int]
    weights: Float[Tensor, "n1 n2 n3"]
    halves: Float[Tensor, " n3"]
    turns: Complex[Tensor, "n1 n2 n3"]
    points: Int[Tensor, "2 slots 3"]
    offsets: Float[Tensor, "2 slots 3"]


def build_mesh(graph: AtomGraph, group: PeriodicGroup, law: PairLaw) -> Mesh:
    """Lay a grid over the only structure of a group."""
    slots = atom_slots(graph, group.graphs)
    positions = slots.gather(graph.positions)
    cell = completed_cells(graph, group, slots, positions, tail=TAIL * law.smearing)
    lengths = (cell[0].detach().square().sum(1).sqrt() / (SPACING * law.smearing)).tolist()
    numbers = [_fast_even(math.ceil(length)) for length in lengths]
    shape = (numbers[0], numbers[1], numbers[2])
    n1, n2 = (_wave_numbers(number, cell) for number in shape[:2])
    n3 = torch.arange(shape[2] // 2 + 1, dtype=cell.dtype, device=cell.device)
    weights = energy_weights(cell, (n1, n2, n3), law, dimensions=group.dimensions)[0]
    transforms = [
        spline_transform(n / number, order=SPLINE_ORDER) for n, number in zip((n1, n2, n3), shape, strict=True)
    ]
    weights = weights / (transforms[0][:, None, None] * transforms[1][:, None] * transforms[2]).square()
    turns = math.pi * (n1[:, None, None] / shape[0] + n2[:, None] / shape[1] + n3 / shape[2])
    reciprocal = 2 * math.pi * torch.linalg.inv(cell[0]).T
    grid_positions = positions[0] @ reciprocal.T / (2 * math.pi) * n3.new_tensor(shape)
    both = torch.stack([grid_positions, grid_positions + 0.5])
    below = both.detach().floor()
    return Mesh(
        slots,
        reciprocal,
        shape,
        weights,
        torch.where(n3 > 0, 1.0, 0.5),
        torch.polar(torch.ones_like(turns), turns),
        below.long(),
        both - below,
    )


def mesh_energy(sources: Sources, mesh: Mesh, law: PairLaw) -> Float[Tensor, ""]:
    """Energy of the structure, e²/Å."""
    charges = mesh.slots.gather(sources.charges)[0]
    dipoles = None if sources.dipoles is None else mesh.slots.gather(sources.dipoles)[0]
    factors = _structure_factors(charges, dipoles, mesh)
    energy = (mesh.weights * mesh.halves * (factors.real.square() + factors.imag.square())).sum()
    own = radial_at_zero(law, orders=2)
    energy = energy - own[0] / 2 * charges.square().sum()
    return energy if dipoles is None else energy - own[1] / 2 * dipoles.square().sum()


def mesh_potential(
    sources: Sources, mesh: Mesh, law: PairLaw
) -> tuple[Float[Tensor, " slots"], Float[Tensor, "slots 3"]]:
    """Potential and field on the structure's atoms, e/Å, e/Å²."""
    charges = mesh.slots.gather(sources.charges)[0]
    dipoles = None if sources.dipoles is None else mesh.slots.gather(sources.dipoles)[0]
    factors = mesh.weights * _structure_factors(charges, dipoles, mesh)
    values, slopes = torch.zeros_like(charges), torch.zeros_like(mesh.offsets[0])
    for shift, grid_factors in enumerate((factors, factors * mesh.turns.conj())):
        grid = torch.fft.irfftn(grid_factors, s=mesh.shape) * (math.prod(mesh.shape) / 2)
        around = take_rows(grid.flatten(), _grid_points(mesh, shift).flatten())
        weights, slope_weights = _weights(mesh, shift)
        planes = torch.stack(
            [
                _outer(weights[:, 1], weights[:, 2]),
                _outer(slope_weights[:, 1], weights[:, 2]),
                _outer(weights[:, 1], slope_weights[:, 2]),
            ],
            dim=2,
        )
        lines = around.reshape(len(charges), SPLINE_ORDER, -1) @ planes
        along = (weights[:, 0, :, None] * lines).sum(1)
        values = values + along[:, 0]
        first = (slope_weights[:, 0] * lines[:, :, 0]).sum(1)
        slopes = slopes + torch.cat([first[:, None], along[:, 1:]], dim=1)
    own = radial_at_zero(law, orders=2)
    per_spacing = mesh.reciprocal / (2 * math.pi) * slopes.new_tensor(mesh.shape)[:, None]
    values, field = values - own[0] * charges, -slopes @ per_spacing
    return values, field if dipoles is None else field + own[1] * dipoles


def _fast_even(number: int) -> int:
    return 2 * int(scipy.fft.next_fast_len(-(-number // 2)))  # pyright: ignore[reportArgumentType]


def _wave_numbers(number: int, like: Tensor) -> Float[Tensor, " n"]:
    return torch.fft.fftfreq(number, d=1 / number, dtype=like.dtype, device=like.device).round()


def _weights(mesh: Mesh, shift: int) -> tuple[Float[Tensor, "slots 3 p"], Float[Tensor, "slots 3 p"]]:
    offsets = mesh.offsets[shift]
    return spline_weights(offsets, order=SPLINE_ORDER), spline_weights(offsets, order=SPLINE_ORDER, derivative=1)


def _outer(first: Float[Tensor, "slots a"], second: Float[Tensor, "slots b"]) -> Float[Tensor, "slots ab"]:
    return (first[:, :, None] * second[:, None]).flatten(1)


def _grid_points(mesh: Mesh, shift: int) -> Int[Tensor, "slots p p p"]:
    """Flat indices of the grid points around each atom."""
    steps = torch.arange(1 - SPLINE_ORDER // 2, SPLINE_ORDER // 2 + 1, device=mesh.points.device)
    around = mesh.points[shift][:, :, None] + steps
    first, second, third = (around[:, axis] % number for axis, number in enumerate(mesh.shape))
    lines = first[:, :, None] * mesh.shape[1] + second[:, None]
    return lines[..., None] * mesh.shape[2] + third[:, None, None]


def _structure_factors(
    charges: Float[Tensor, " slots"], dipoles: Float[Tensor, "slots 3"] | None, mesh: Mesh
) -> Complex[Tensor, "n1 n2 n3"]:
    """S(k)*, not yet divided by the splines' transforms (`Mesh.weights` are)."""
    factors = []
    for shift in range(2):
        weights, slope_weights = _weights(mesh, shift)
        planes = _outer(weights[:, 1], weights[:, 2])
        if dipoles is None:
            spread = (charges[:, None] * weights[:, 0])[:, :, None] * planes[:, None]
        else:
            per_spacing = mesh.reciprocal / (2 * math.pi) * dipoles.new_tensor(mesh.shape)[:, None]
            moments = (dipoles @ per_spacing.T)[:, :, None]
            charged = charges[:, None] * weights[:, 1] + moments[:, 1] * slope_weights[:, 1]
            charged = _outer(charged, weights[:, 2]) + _outer(weights[:, 1], moments[:, 2] * slope_weights[:, 2])
            lines = torch.stack([weights[:, 0], moments[:, 0] * slope_weights[:, 0]], dim=2)
            spread = lines @ torch.stack([charged, planes], dim=1)
        points = _grid_points(mesh, shift).flatten()
        grid = add_rows(spread.flatten(), points, size=math.prod(mesh.shape)).reshape(mesh.shape)
        factors.append(torch.fft.rfftn(grid))
    return (factors[0] + factors[1] * mesh.turns) / 2
