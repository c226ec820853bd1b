"""Free molecules: all pairs of atoms, no loop over the molecules of a batch.

Above `PAIRS_AT_ONCE` pairs are summed in parts that are computed anew in the backward pass, so that what is kept for it
does not grow with the square of the atoms; the list of pairs itself does.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.electrostatics.radial import PairLaw, radial_functions
from foundation.electrostatics.sources import Potential, Sources
from foundation.nn.gather import add_rows, take_rows
from foundation.nn.readout import sum_atoms
from foundation.nn.recompute import recomputed

PAIRS_AT_ONCE = 1 << 18
"""About 0.3 GB for forces; all pairs of 724 atoms."""


def atom_pairs(
    num_atoms_per_graph: Int[Tensor, " graphs"], chosen: Bool[Tensor, " graphs"]
) -> Int[Tensor, "two pairs"]:
    """All pairs i < j of atoms in the same graph, of the `chosen` graphs."""
    counts = torch.where(chosen, num_atoms_per_graph, 0)
    starts = torch.cumsum(num_atoms_per_graph, 0) - num_atoms_per_graph
    ends = torch.repeat_interleave(starts + counts, counts)
    first = torch.arange(len(ends), device=ends.device)
    first = first + torch.repeat_interleave(starts - (torch.cumsum(counts, 0) - counts), counts)
    later = ends - first - 1
    pair_first = torch.repeat_interleave(first, later)
    begins = torch.repeat_interleave(torch.cumsum(later, 0) - later, later)
    pair_second = pair_first + 1 + torch.arange(len(pair_first), device=ends.device) - begins
    return torch.stack([pair_first, pair_second])


def pair_energies(
    sources: Sources, graph: AtomGraph, pairs: Int[Tensor, "two pairs"], law: PairLaw
) -> Float[Tensor, " graphs"]:
    """Energy of each graph from `pairs` of its atoms, without periodic images, e²/Å."""
    parts = _parts(pairs)
    found = [recomputed(partial(_energies_of, sources, graph, one, law), when=len(parts) > 1) for one in parts]
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


def _energies_of(
    sources: Sources, graph: AtomGraph, pairs: Int[Tensor, "two pairs"], law: PairLaw
) -> Float[Tensor, " graphs"]:
    first, second = pairs
    vectors = take_rows(graph.positions, first) - take_rows(graph.positions, second)
    orders = 1 if sources.dipoles is None else 3
    functions = radial_functions(vectors.square().sum(1), law, orders=orders)
    charge_a, charge_b = take_rows(sources.charges, first), take_rows(sources.charges, second)
    energies = charge_a * charge_b * functions[0]
    if sources.dipoles is not None:
        dipole_a, dipole_b = take_rows(sources.dipoles, first), take_rows(sources.dipoles, second)
        along_a, along_b = (dipole_a * vectors).sum(1), (dipole_b * vectors).sum(1)
        mixed = charge_a * along_b - charge_b * along_a + (dipole_a * dipole_b).sum(1)
        energies = energies + mixed * functions[1] - along_a * along_b * functions[2]
    return sum_atoms(energies, take_rows(graph.graph_index, first), graph.num_graphs)


def pair_potential(sources: Sources, graph: AtomGraph, pairs: Int[Tensor, "two pairs"], law: PairLaw) -> Potential:
    """Potential and field that the atoms of `pairs` make for each other, without periodic images; e/Å, e/Å²."""
    parts = _parts(pairs)
    found = [recomputed(partial(_potential_of, sources, graph, one, law), when=len(parts) > 1) for one in parts]
    if len(found) == 1:
        return found[0]
    return Potential(
        torch.stack([one.values for one in found]).sum(0), torch.stack([one.field for one in found]).sum(0)
    )


def _potential_of(sources: Sources, graph: AtomGraph, pairs: Int[Tensor, "two pairs"], law: PairLaw) -> Potential:
    first, second = pairs
    receivers, senders = torch.cat([first, second]), torch.cat([second, first])
    half = take_rows(graph.positions, first) - take_rows(graph.positions, second)
    functions = radial_functions(
        half.square().sum(1),
        law,
        orders=2 if sources.dipoles is None else 3,
    )
    functions, vectors = torch.cat([functions, functions], dim=1), torch.cat([half, -half])
    charges = take_rows(sources.charges, senders)
    values, along = charges * functions[0], charges * functions[1]
    field = along[:, None] * vectors
    if sources.dipoles is not None:
        dipoles = take_rows(sources.dipoles, senders)
        projected = (dipoles * vectors).sum(1)
        values = values + projected * functions[1]
        field = field + (projected * functions[2])[:, None] * vectors - functions[1][:, None] * dipoles
    size = len(sources.charges)
    return Potential(add_rows(values, receivers, size=size), add_rows(field, receivers, size=size))


def _parts(pairs: Int[Tensor, "two pairs"]) -> tuple[Int[Tensor, "two part"], ...]:
    """Pairs in parts that fit into memory; whole for a compiler, which is not to look at their number."""
    if torch.compiler.is_compiling() or pairs.shape[1] <= PAIRS_AT_ONCE:
        return (pairs,)
    return pairs.split(PAIRS_AT_ONCE, dim=1)
