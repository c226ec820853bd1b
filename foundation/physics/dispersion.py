"""Dispersion after Grimme, D3 with the damping of Becke and Johnson, by the library `dftd3` (simple-dftd3).

It has nothing to train: energies, forces and stress are computed beside autograd and added to what a model predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from ase.geometry import complete_cell
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config, nearest
from foundation.data.graph import AtomGraph
from foundation.errors import InputError
from foundation.units import BOHR_IN_ANGSTROM, HARTREE_IN_EV

if TYPE_CHECKING:
    from dftd3.interface import DispersionModel

FADE_BOHR = 10.0
"""Width of the shell below the cutoff in which pairs fade to zero; without it energies step as pairs cross."""
COUNTING_CUTOFF_BOHR = 40.0
"""How far neighbours are counted; the library's default. Its counts do not fade but are tiny there: an energy steps by
1e-10 to 3e-9 eV when an atom comes closer than this to another."""
HEAVIEST = 103
"""Lawrencium, the last element with coefficients. The library gives zero for the next ones and crashes on the last."""
FUNCTIONALS = (
    "b3lyp", "b97d", "blyp", "bp", "hf", "hse06", "pbe", "pbe0", "pbesol", "r2scan", "revpbe", "revpbe0", "rpbe",
    "scan", "tpss", "wb97m", "wb97x",
)  # fmt: skip
"""The library knows more; these are named in errors."""
MARGIN = 10.0
"""Å; of a drawn-up box round a structure in the directions in which it does not repeat."""


class DispersionConfig(Config):
    """Add D3(BJ) dispersion to energies, forces and stress; of pairs, without the three-body term.

    Attributes:
        functional: Whose damping: that of the labels, such as `pbe`.
        cutoff: Å; pairs fade to zero over the last 5.3 Å before it. In liquid water 20 Å cost 0.6 of 32 Å and leave
            out 0.1 meV an atom (`docs/short_range.md`).
    """

    kind: Literal["d3bj"] = "d3bj"
    functional: str
    cutoff: float = Field(default=32.0, ge=15.0)


@dataclass(frozen=True)
class DispersionResult:
    """What dispersion adds; float64, on the device of the graph, without autograd.

    Attributes:
        energy: eV.
        forces: eV/Å.
        stress: (1/V) dE/dε, eV/Å³, tension positive; NaN for graphs that do not repeat in all three directions.
    """

    energy: Float[Tensor, " graphs"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "graphs 3 3"]


class D3Dispersion(nn.Module):
    """D3(BJ) energies, forces and stress of free, partly and wholly periodic structures.

    Raises:
        InputError: The library is not installed, or has no damping for the functional.

    Source: Grimme et al., J. Chem. Phys. 132, 154104 (2010); Grimme, Ehrlich, Goerigk, J. Comput. Chem. 32, 1456
    (2011).
    """

    def __init__(self, config: DispersionConfig) -> None:
        super().__init__()
        self.config = config
        require_dftd3()
        check_functional(config.functional)

    @torch.no_grad()
    def forward(self, graph: AtomGraph) -> DispersionResult:
        """Give each graph's dispersion; needs no edges. Structures are computed one after another on the CPU.

        Raises:
            InputError: An element without D3 coefficients, or a structure that the library refuses.
        """
        from dftd3.interface import RationalDampingParam

        # Not kept: handles of the library cannot be copied, and modules are (averages of weights, compiled models).
        damping = RationalDampingParam(method=self.config.functional)
        numbers = graph.atomic_numbers.cpu().numpy()
        if numbers.max() > HEAVIEST:
            heavy = sorted(set(numbers[numbers > HEAVIEST].tolist()))
            raise InputError(f"dispersion: D3 has no coefficients for atomic numbers {heavy}; allowed: 1 to {HEAVIEST}")
        positions, cells = graph.positions.double().cpu().numpy(), graph.cell.double().cpu().numpy()
        pbc = graph.pbc.cpu().numpy()
        starts = np.concatenate([[0], np.cumsum(graph.num_atoms_per_graph.cpu().numpy())])
        energies, stresses = np.zeros(graph.num_graphs), np.full((graph.num_graphs, 3, 3), np.nan)
        forces = np.zeros(positions.shape)
        for index in range(graph.num_graphs):
            atoms = slice(starts[index], starts[index + 1])
            cell, periodic = cells[index], pbc[index]
            try:
                model = self._library_model(numbers[atoms], positions[atoms], cell, periodic)
                found = model.get_dispersion(damping, grad=True)
            except RuntimeError as error:
                symbols = ", ".join(str(number) for number in sorted(set(numbers[atoms].tolist())))
                raise InputError(
                    f"dispersion: structure {index} of the batch (atomic numbers {symbols}): dftd3 gives none: {error}"
                ) from error
            energies[index] = float(found["energy"]) * HARTREE_IN_EV
            forces[atoms] = -found["gradient"] * (HARTREE_IN_EV / BOHR_IN_ANGSTROM)
            if periodic.all():
                stresses[index] = found["virial"] * (HARTREE_IN_EV / abs(np.linalg.det(cell)))
        device = graph.positions.device
        return DispersionResult(
            torch.as_tensor(energies, device=device),
            torch.as_tensor(forces, device=device),
            torch.as_tensor(stresses, device=device),
        )

    def _library_model(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray
    ) -> DispersionModel:
        from dftd3.interface import DispersionModel

        if periodic.any():
            positions, cell = _boxed(positions, cell, periodic)
            model = DispersionModel(numbers, positions / BOHR_IN_ANGSTROM, cell / BOHR_IN_ANGSTROM, periodic)
        else:
            model = DispersionModel(numbers, positions / BOHR_IN_ANGSTROM)
        cutoff = self.config.cutoff / BOHR_IN_ANGSTROM
        counting = min(COUNTING_CUTOFF_BOHR, cutoff)
        model.set_realspace_cutoff(disp2=cutoff, disp3=counting, cn=counting, width2=FADE_BOHR, width3=FADE_BOHR)
        return model


def _boxed(
    positions: Float[np.ndarray, "atoms 3"], cell: Float[np.ndarray, "3 3"], periodic: np.ndarray
) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"]]:
    """Exchange cell vectors that do not repeat for perpendicular ones that hold all atoms.

    The library folds atoms into the cell along all three vectors, those that do not repeat included, which would tear
    a slab that reaches beyond its cell.
    """
    if periodic.all():
        return positions, cell
    boxed = complete_cell(np.where(periodic[:, None], cell, 0.0))
    shifted = positions.copy()
    for axis in np.flatnonzero(~periodic):
        direction = boxed[axis] / np.linalg.norm(boxed[axis])
        heights = positions @ direction
        boxed[axis] = direction * (np.ptp(heights) + 2 * MARGIN)
        shifted += direction * (MARGIN - heights.min())
    return shifted, boxed


def require_dftd3() -> None:
    """Fail early and clearly where the optional package is missing.

    Raises:
        InputError: dftd3 cannot be imported.
    """
    try:
        import dftd3.interface  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"dispersion: the package 'dftd3' cannot be imported ({error}); install it with: pip install dftd3"
        ) from error


def check_functional(functional: str) -> None:
    """Refuse a functional without D3(BJ) damping.

    Raises:
        InputError: What is near, and where the list is.
    """
    from dftd3.interface import RationalDampingParam

    try:
        RationalDampingParam(method=functional)
    except RuntimeError as error:
        close = nearest(functional, FUNCTIONALS)
        hint = f"; nearest: '{close}'" if close else ""
        raise InputError(
            f"model.dispersion.functional: got '{functional}'{hint}; allowed: functionals with D3(BJ) damping in "
            f"dftd3, such as {', '.join(FUNCTIONALS)}"
        ) from error
