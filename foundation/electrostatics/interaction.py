"""The electrostatic interaction of Gaussian charges and dipoles: potential, field, energy and its matrix."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.data.plain_graph import PlainGraph
from foundation.electrostatics.dense import interaction_matrix
from foundation.electrostatics.lattice import PeriodicGroup, periodic_groups, reciprocal_box, single_groups
from foundation.electrostatics.mesh import build_mesh, mesh_energy, mesh_potential
from foundation.electrostatics.pairs import atom_pairs, pair_energies, pair_potential
from foundation.electrostatics.radial import PairLaw
from foundation.electrostatics.reciprocal import reciprocal_energies, reciprocal_potential
from foundation.electrostatics.sources import Potential, Sources
from foundation.nn.gather import add_rows
from foundation.units import COULOMB_CONSTANT


class InteractionConfig(Config):
    """How charges and dipoles act on each other.

    Attributes:
        smearing: Width σ of the Gaussian of every charge and dipole, Å.
        screening_length: λ, Å: e^{−r/λ}/r (Yukawa) instead of 1/r, for metals; None for none.
        permittivity: ε∞, relative, of the electrons, whose response the charges do not describe. Interactions are
            divided by it, so that charges and dipoles keep their full size (docs/electrostatics.md).
        mesh_above: Atoms of a periodic structure above which its sum goes over a mesh. From where the mesh is faster,
            see `foundation.electrostatics.mesh`; up to there structures are summed together, above one by one.
    """

    smearing: float = Field(1.0, gt=0)
    screening_length: float | None = Field(None, gt=0)
    permittivity: float = Field(1.0, ge=1)
    mesh_above: int = Field(300, ge=0)

    @model_validator(mode="after")
    def _screening_not_too_short(self) -> InteractionConfig:
        if self.screening_length is not None and self.screening_length < self.smearing / 3:
            raise ValueError(
                f"screening_length {self.screening_length} Å is below a third of smearing ({self.smearing} Å): nothing "
                "but the Gaussians' overlap would be left; allowed: at least smearing / 3"
            )
        return self


class Interaction(nn.Module):
    """The interaction of Gaussian charges and dipoles in free molecules, wires, slabs and crystals. No weights.

    Two unit charges a distance r apart interact by erf(r/2σ)/r times the Coulomb constant over the permittivity;
    dipoles by its derivatives. A batch may mix all kinds of boundaries. Everything is float64 and differentiable twice
    by charges, dipoles, positions and the cells of crystals; the cells of slabs and wires, whose stress is not
    defined, count as constants.

    What a net charge means: in a crystal the average potential is zero, as if a uniform background neutralised it (see
    `charged_cells`; the energy then depends on the cell and is not that of the charge alone); in a slab it is a charged
    plane, −2π|z| times its density, in a wire a line, −2 ln(ρ/Å) times its density, without any background. Screened
    charges need none. A crystal's dipole is that of an infinite crystal in a conductor (no surface term).

    Attributes:
        constant: The Coulomb constant over the permittivity, eV·Å/e².
    """

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.config = config
        screening = 0.0 if config.screening_length is None else 1 / config.screening_length
        self.law = PairLaw(config.smearing, screening)
        self.constant = COULOMB_CONSTANT / config.permittivity

    def potential(self, sources: Sources, graph: AtomGraph) -> Potential:
        """Potential (V) and field (V/Å) on every atom, of all other atoms and all periodic images."""
        sources = _double(sources)
        kinds = self._kinds(graph)
        found = pair_potential(sources, graph, kinds.pairs, self.law)
        values, field = found.values, found.field
        for group in kinds.groups:
            box = reciprocal_box(graph, group, self.law)
            group_values, group_field = reciprocal_potential(sources, box, self.law)
            values = values + box.slots.scatter(group_values, num_atoms=len(values))
            field = field + box.slots.scatter(group_field, num_atoms=len(values))
        for group in kinds.large:
            mesh = build_mesh(graph, group, self.law)
            atoms = mesh.slots.atoms[0]
            mesh_values, mesh_field = mesh_potential(sources, mesh, self.law)
            values = values + add_rows(mesh_values, atoms, size=len(values))
            field = field + add_rows(mesh_field, atoms, size=len(values))
        return Potential(self.constant * values, self.constant * field)

    def energy(self, sources: Sources, graph: AtomGraph) -> Float[Tensor, " graphs"]:
        """½ Σ (q φ − μ·E) of each graph, eV."""
        sources = _double(sources)
        kinds = self._kinds(graph)
        energies = pair_energies(sources, graph, kinds.pairs, self.law)
        for group in kinds.groups:
            box = reciprocal_box(graph, group, self.law)
            group_energies = reciprocal_energies(sources, box, self.law)
            energies = energies + add_rows(group_energies, group.graphs, size=graph.num_graphs)
        for group in kinds.large:
            mesh_energies = mesh_energy(sources, build_mesh(graph, group, self.law), self.law)[None]
            energies = energies + add_rows(mesh_energies, group.graphs, size=graph.num_graphs)
        return self.constant * energies

    def matrix(self, graph: AtomGraph, *, with_dipoles: bool) -> Float[Tensor, "graphs rows rows"]:
        """The symmetric matrix A of each graph for which the energy is ½ xᵀ A x.

        Args:
            graph: M is the number of atoms of its largest structure.
            with_dipoles: x holds the charges, `[M]`; with dipoles `[4 M]`: all charges, then the x components of all
                dipoles, then y, then z.

        Returns:
            eV/e², eV/(e²·Å), eV/(e²·Å²). Rows and columns beyond a structure's atoms are zero; an atom's interaction
            with itself is left out, that with its own images is not.
        """
        return self.constant * interaction_matrix(graph, self.law, with_dipoles=with_dipoles)

    def _kinds(self, graph: AtomGraph) -> _Kinds:
        if isinstance(graph, PlainGraph):  # of free molecules, whose pairs were found before
            return _Kinds(graph.pairs, [], [])
        repeats = graph.pbc.any(dim=1)
        large = repeats & (graph.num_atoms_per_graph > self.config.mesh_above)
        return _Kinds(
            atom_pairs(graph.num_atoms_per_graph, ~repeats),
            periodic_groups(graph, repeats & ~large, self.law),
            single_groups(graph, large),
        )


class _Kinds(NamedTuple):
    """The structures of a batch by the way in which they are summed: free molecules, small cells, cells with a mesh."""

    pairs: Int[Tensor, "two pairs"]
    groups: list[PeriodicGroup]
    large: list[PeriodicGroup]


def _double(sources: Sources) -> Sources:
    return Sources(sources.charges.double(), None if sources.dipoles is None else sources.dipoles.double())
