"""`AtomGraph`: one structure, or a batch of them, with an explicit field table.

Every field says its level, dtype, shape and unit; that table decides how fields are batched. Labels live in `targets`,
keyed by property, beside `masks` of the same level: a missing label is masked, never zero by accident.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch_geometric.data import Data

from foundation.errors import InputError
from foundation.properties import PROPERTIES, get_property

MINIMUM_DISTANCE = 0.1
"""Å; atoms closer than this are on top of each other (the shortest bond, H₂ under extreme compression, is 0.4 Å)."""
MINIMUM_CELL_THICKNESS = 1e-3
"""Å; a periodic cell thinner than this has no volume."""
MAXIMUM_ATOMIC_NUMBER = 118
FIELD_TOLERANCE = 1e-6
"""Of |F||a|; what a field F may gain along a periodic lattice vector a: cells are read from files with few digits."""


@dataclass(frozen=True)
class GraphField:
    """One structural field of a graph.

    Attributes:
        level: Which axis comes first: one entry an atom, an edge or a graph.
        dtype: Its only dtype.
        shape: Behind the first axis.
        unit: Internal unit, "1" if none.
        optional: Whether a single graph may lack it, as stored data do; zero in a batch then.
    """

    level: Literal["atom", "edge", "graph"]
    dtype: torch.dtype
    shape: tuple[int, ...]
    unit: str
    optional: bool = False


FIELDS: dict[str, GraphField] = {
    "positions": GraphField("atom", torch.float64, (3,), "Å"),
    "atomic_numbers": GraphField("atom", torch.int64, (), "1"),
    "cell": GraphField("graph", torch.float64, (3, 3), "Å"),
    "pbc": GraphField("graph", torch.bool, (3,), "1"),
    "total_charge": GraphField("graph", torch.float64, (), "e"),
    "spin_multiplicity": GraphField("graph", torch.int64, (), "1"),
    "level_index": GraphField("graph", torch.int64, (), "1"),
    "dataset_index": GraphField("graph", torch.int64, (), "1"),
    "structure_index": GraphField("graph", torch.int64, (), "1"),
    "senders": GraphField("edge", torch.int64, (), "1"),
    "receivers": GraphField("edge", torch.int64, (), "1"),
    "edge_shifts": GraphField("edge", torch.float64, (3,), "1"),
    "external_field": GraphField("graph", torch.float64, (3,), "V/Å", optional=True),
}
"""Edges point from `senders` j to `receivers` i, sorted by receiver; `edge_shifts` counts cell vectors, so that
r_ij = positions[j] + edge_shifts @ cell - positions[i]. `level_index` and `dataset_index` number the levels of theory
and data sets of the model or mixture that the graph is meant for; `structure_index` is the row in its data set."""

_ATOM_INDEX_FIELDS = ("senders", "receivers")


class AtomGraph(Data):
    """A structure (`num_graphs` = 1) or a batch. Fields as in `FIELDS`; also:

    Attributes:
        targets: Property name -> values; graph level `[graphs, *shape]`, atom level `[atoms, *shape]`. NaN-free; zero
            where masked.
        masks: Property name -> bool `[graphs]` or `[atoms]`: where the label exists.
        graph_index: `[atoms]`: the graph of each atom.
        num_atoms_per_graph: `[graphs]`.
        num_graphs: Python int.
        num_levels: Python int: how many levels of theory are in the batch.
        max_neighbors: Python int: the largest number of edges that one atom receives, at least 1. This and the next
            three are there once a graph was batched (`collate`): the edges as a table with a row of `max_neighbors`
            slots for each receiver.
        slot_senders: `[atoms * max_neighbors]`; in an empty slot the receiver itself.
        slot_shifts: `[atoms * max_neighbors, 3]`: `edge_shifts`, zero in an empty slot.
        slot_filled: `[atoms * max_neighbors]`, bool: false in an empty slot.
    """

    @property
    def fields(self) -> dict[str, Any]:
        """All of them by name, to read and write where many graphs are handled.

        Attribute by attribute it goes through three layers of torch_geometric and takes as long as all the rest.
        """
        return self._store._mapping


def build_graph(
    *,
    positions: ArrayLike,
    atomic_numbers: ArrayLike,
    total_charge: float,
    spin_multiplicity: int,
    cell: ArrayLike | None = None,
    pbc: Sequence[bool] | np.ndarray | bool = False,
    targets: Mapping[str, ArrayLike] | None = None,
    level_index: int = 0,
    dataset_index: int = 0,
    structure_index: int = 0,
    external_field: Sequence[float] | np.ndarray | None = None,
    where: str = "structure",
) -> AtomGraph:
    """Validate one structure and make a graph of it, without edges (see `foundation.data.neighbors.with_neighbors`).

    Args:
        positions: `[atoms, 3]`, Å.
        atomic_numbers: `[atoms]`.
        total_charge: e.
        spin_multiplicity: 2S+1, at least 1.
        cell: `[3, 3]`, rows are lattice vectors, Å; None for a free molecule.
        pbc: Which lattice directions repeat.
        targets: Property name -> value in internal units; absent properties are masked when batched. Atom-level values
            may hold NaN rows: those atoms are masked.
        external_field: `[3]`, V/Å, uniform; None for none. Along a direction in which the structure repeats its
            potential would not, so that a cell's energy is not defined.
        where: What to call this structure in an error.

    Raises:
        InputError: Wrong shapes, non-finite numbers, atoms on top of each other, unknown elements, a periodic cell
            without volume, a field along a periodic direction.
    """
    position_array = np.asarray(positions, dtype=np.float64)
    number_array = np.asarray(atomic_numbers, dtype=np.int64)
    if position_array.ndim != 2 or position_array.shape[1] != 3 or len(position_array) == 0:
        raise InputError(
            f"{where}: positions have shape {position_array.shape}; allowed: (atoms, 3), at least one atom"
        )
    if number_array.shape != position_array.shape[:1]:
        raise InputError(f"{where}: {len(number_array)} atomic numbers for {len(position_array)} positions")
    if not np.isfinite(position_array).all():
        raise InputError(f"{where}: positions hold NaN or infinite values")
    if number_array.min() < 1 or number_array.max() > MAXIMUM_ATOMIC_NUMBER:
        raise InputError(
            f"{where}: atomic numbers {sorted(set(number_array.tolist()))}; allowed: 1 to {MAXIMUM_ATOMIC_NUMBER}"
        )
    if spin_multiplicity < 1 or int(spin_multiplicity) != spin_multiplicity:
        raise InputError(f"{where}: spin multiplicity {spin_multiplicity}; allowed: 2S+1 = 1, 2, 3, …")
    if not np.isfinite(total_charge):
        raise InputError(f"{where}: total charge {total_charge}; allowed: a finite number of e")
    pbc_array = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    cell_array = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    _check_cell(cell_array, pbc_array, where)
    graph = AtomGraph()
    graph.positions = torch.from_numpy(position_array.copy())
    graph.atomic_numbers = torch.from_numpy(number_array.copy())
    graph.cell = torch.from_numpy(cell_array.copy())[None]
    graph.pbc = torch.from_numpy(pbc_array)[None]
    graph.total_charge = torch.tensor([float(total_charge)], dtype=torch.float64)
    graph.spin_multiplicity = torch.tensor([int(spin_multiplicity)])
    graph.level_index = torch.tensor([level_index])
    graph.dataset_index = torch.tensor([dataset_index])
    graph.structure_index = torch.tensor([structure_index])
    if external_field is not None:
        graph.external_field = _check_field(external_field, cell_array, pbc_array, where)
    graph.targets, graph.masks = {}, {}
    for name, value in (targets or {}).items():
        graph.targets[name], graph.masks[name] = _check_target(name, value, len(position_array), where)
    graph.graph_index = torch.zeros(len(position_array), dtype=torch.int64)
    graph.num_atoms_per_graph = torch.tensor([len(position_array)])
    graph.num_graphs = graph.num_levels = 1
    return graph


def _check_cell(cell: np.ndarray, pbc: np.ndarray, where: str) -> None:
    if cell.shape != (3, 3) or not np.isfinite(cell).all():
        raise InputError(f"{where}: cell has shape {cell.shape} or non-finite entries; allowed: finite (3, 3)")
    if not pbc.any():
        return
    periodic = cell[pbc]
    thickness = np.linalg.svd(periodic, compute_uv=False).min()
    if thickness < MINIMUM_CELL_THICKNESS:
        raise InputError(
            f"{where}: the cell has no volume in its periodic directions (pbc={pbc.tolist()}, "
            f"cell={cell.round(4).tolist()}); give lattice vectors that are linearly independent or set pbc to false"
        )


def _check_field(field: Sequence[float] | np.ndarray, cell: np.ndarray, pbc: np.ndarray, where: str) -> Tensor:
    array = np.asarray(field, dtype=np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise InputError(f"{where}: external field {array.tolist()}; allowed: three finite numbers, V/Å")
    allowed = FIELD_TOLERANCE * np.linalg.norm(cell[pbc], axis=1) * np.linalg.norm(array)
    if (np.abs(cell[pbc] @ array) > allowed).any():
        raise InputError(
            f"{where}: the external field {array.tolist()} V/Å has a part along a direction in which the structure "
            f"repeats (pbc={pbc.tolist()}); the potential of a uniform field does not repeat, so the energy of a cell "
            "is not defined; allowed: fields perpendicular to every periodic lattice vector"
        )
    return torch.from_numpy(array.copy())[None]


def _check_target(name: str, value: ArrayLike, num_atoms: int, where: str) -> tuple[Tensor, Tensor]:
    prop = get_property(name)
    rows = num_atoms if prop.level == "atom" else 1
    array = np.asarray(value, dtype=np.float64)
    if prop.level == "graph":
        array = array[None]
    if array.shape != (rows, *prop.shape):
        raise InputError(f"{where}: label '{name}' has shape {array.shape}; allowed: {(rows, *prop.shape)}")
    flat = array.reshape(rows, -1)
    missing = np.isnan(flat).all(axis=1) if prop.level == "atom" else np.zeros(rows, dtype=bool)
    if not np.isfinite(flat[~missing]).all():
        raise InputError(f"{where}: label '{name}' holds NaN or infinite values")
    array = np.where(missing.reshape(rows, *[1] * len(prop.shape)), 0.0, array)
    return torch.from_numpy(array.copy()), torch.from_numpy(~missing)


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Batch graphs that have neighbours: atoms are concatenated, labels missing in some graphs are masked there.

    Args:
        graphs: At least one, each with edges sorted by receiver.
    """
    assert graphs, "an empty batch"
    fields = [graph.fields for graph in graphs]
    counts = torch.cat([field["num_atoms_per_graph"] for field in fields])
    sizes = [field["positions"].shape[0] for field in fields]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
    batch = AtomGraph()
    joint = batch.fields
    for name in FIELDS:
        parts = [_field_of(field, name) for field in fields]
        if name in _ATOM_INDEX_FIELDS:
            parts = [part + offset for part, offset in zip(parts, offsets, strict=True)]
        joint[name] = torch.cat(parts)
    joint["num_atoms_per_graph"] = counts
    joint["num_graphs"] = len(counts)
    joint["num_levels"] = len(set(joint["level_index"].tolist()))
    joint["graph_index"] = torch.repeat_interleave(torch.arange(len(counts)), counts)
    joint["targets"], joint["masks"] = {}, {}
    labelled = {name for field in fields for name in field["targets"]}
    for name in PROPERTIES:
        if name in labelled:
            joint["targets"][name], joint["masks"][name] = _collate_target(name, fields)
    fill_slots(batch)
    return batch


def some_graphs(graph: AtomGraph, chosen: Bool[Tensor, " graphs"]) -> AtomGraph:
    """Some graphs of a batch as a batch, in the same order, without labels; differentiable in positions and cell.

    Args:
        graph: The batch, with its slots.
        chosen: Which of its graphs; at least one.
    """
    fields, part = graph.fields, AtomGraph()
    atoms, edges = chosen[fields["graph_index"]], chosen[fields["graph_index"][fields["receivers"]]]
    masks = {"graph": chosen, "atom": atoms, "edge": edges}
    new_number = torch.cumsum(atoms, 0) - 1
    found = part.fields
    for name, row in FIELDS.items():
        found[name] = fields[name][masks[row.level]]
        if name in _ATOM_INDEX_FIELDS:
            found[name] = new_number[found[name]]
    counts = fields["num_atoms_per_graph"][chosen]
    found["num_atoms_per_graph"], found["num_graphs"] = counts, len(counts)
    found["num_levels"] = len(set(found["level_index"].tolist()))
    found["graph_index"] = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    found["targets"], found["masks"] = {}, {}
    width = found["max_neighbors"] = fields["max_neighbors"]
    slots = atoms.repeat_interleave(width)
    found["slot_senders"] = new_number[fields["slot_senders"][slots]]
    for name in ("slot_shifts", "slot_filled"):
        found[name] = fields[name][slots]
    return part


def _field_of(fields: Mapping[str, Any], name: str) -> Tensor:
    """A structural field of one graph; zero where it may be absent."""
    found = fields.get(name)
    if found is None:
        row = FIELDS[name]
        assert row.optional, f"the field '{name}' is absent"
        assert row.level == "graph", f"'{name}' is optional, which is for fields of whole graphs"
        return torch.zeros(1, *row.shape, dtype=row.dtype)
    return found


def _collate_target(name: str, fields: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    prop = PROPERTIES[name]
    values, masks = [], []
    for field in fields:
        if name in field["targets"]:
            values.append(field["targets"][name])
            masks.append(field["masks"][name])
        else:
            rows = field["positions"].shape[0] if prop.level == "atom" else field["num_graphs"]
            values.append(torch.zeros(rows, *prop.shape, dtype=torch.float64))
            masks.append(torch.zeros(rows, dtype=torch.bool))
    return torch.cat(values), torch.cat(masks)


def fill_slots(graph: AtomGraph) -> None:
    """Lay the edges of a graph, sorted by receiver, out as a table padded to the largest number of neighbours."""
    fields = graph.fields
    receivers, edge_shifts = fields["receivers"], fields["edge_shifts"]
    num_atoms, device = fields["positions"].shape[0], receivers.device
    degrees = torch.bincount(receivers, minlength=num_atoms)
    width = max(1, int(degrees.max())) if len(receivers) else 1
    starts = torch.cumsum(degrees, 0) - degrees
    slots = receivers * width + torch.arange(len(receivers), device=device) - starts[receivers]
    senders = torch.arange(num_atoms, device=device).repeat_interleave(width)
    senders[slots] = fields["senders"]
    shifts = edge_shifts.new_zeros(num_atoms * width, 3)
    shifts[slots] = edge_shifts
    filled = torch.zeros(num_atoms * width, dtype=torch.bool, device=device)
    filled[slots] = True
    fields["max_neighbors"] = width
    fields["slot_senders"], fields["slot_shifts"], fields["slot_filled"] = senders, shifts, filled


def edge_vectors(
    graph: AtomGraph,
    positions: Float[Tensor, "atoms 3"],
    cell: Float[Tensor, "graphs 3 3"],
) -> Float[Tensor, "edges 3"]:
    """Vectors from receiver to sender, Å, in the dtype of `positions`; differentiable in both arguments."""
    shift = torch.einsum("ea,eab->eb", graph.edge_shifts, cell[graph.graph_index[graph.receivers]])
    return positions[graph.senders] - positions[graph.receivers] + shift


def label_mask(graph: AtomGraph, name: str) -> Bool[Tensor, " rows"]:
    """Where property `name` is labelled; all false if no graph of the batch carries it."""
    if name in graph.masks:
        return graph.masks[name]
    rows = graph.positions.shape[0] if PROPERTIES[name].level == "atom" else graph.num_graphs
    return torch.zeros(rows, dtype=torch.bool, device=graph.positions.device)
