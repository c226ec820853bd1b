"""From normalised outputs to physical values: reference energies and scales, per level of theory, with their origin.

The table is measured on training data, stored in the checkpoint and printed on the model card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.nn.gather import take_rows
from foundation.nn.readout import sum_atoms
from foundation.properties import PROPERTIES, Property

NUM_ATOMIC_NUMBERS = 119
RIDGE = 1e-6
"""Ridge of the least-squares fits, relative to each element's column: only to split what the data leave open."""
UNLABELLED = frozenset({"missing_charge"})
"""What no data can tell and no residual is divided for: nothing is stored for it."""


@dataclass(frozen=True)
class ScalingTable:
    """What `fit_scaling` measured.

    Attributes:
        references: Property -> `[levels, 119]` float64, contribution of each element (energy: eV); NaN where unknown.
        scales: Property -> what its residuals are divided by.
        shifts: Property -> mean of an intensive scalar, else 0.
        mean_neighbors: Mean number of neighbours within the cutoff.
        provenance: Level -> how its reference energies were obtained.
    """

    references: Mapping[str, Float[Tensor, "levels elements"]]
    scales: Mapping[str, float]
    shifts: Mapping[str, float]
    mean_neighbors: float
    provenance: Mapping[str, str] = field(default_factory=dict)


def has_references(prop: Property) -> bool:
    """Whether a property has a scalar part that adds up over atoms, so that elements contribute a constant each."""
    return prop.level == "graph" and prop.extensive and "0e" in prop.irreps


class Scaling(nn.Module):
    """Buffers that turn a head's normalised values into physical ones, and residuals into normalised ones.

    Args:
        properties: Of the model.
        num_levels: Levels of theory.
        physical: Properties whose heads give physical values, to which elements contribute nothing.

    Attributes:
        provenance: Level -> how its reference energies were obtained; for the model card.
    """

    def __init__(self, properties: frozenset[str], *, num_levels: int, physical: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.physical = physical
        self.names = tuple(sorted(properties - UNLABELLED))
        self.provenance: dict[str, str] = {}
        for name in self.names:
            self.register_buffer(f"scale_{name}", torch.tensor(1.0, dtype=torch.float64))
            self.register_buffer(f"shift_{name}", torch.tensor(0.0, dtype=torch.float64))
            if has_references(PROPERTIES[name]):
                unknown = 0.0 if name in physical else torch.nan
                table = torch.full((num_levels, NUM_ATOMIC_NUMBERS), unknown, dtype=torch.float64)
                table[:, 0] = 0.0
                self.register_buffer(f"references_{name}", table)

    @property
    def reference_energies(self) -> Float[Tensor, "levels elements"]:
        """eV, NaN where unknown."""
        return self.get_buffer("references_energy")

    def references(self, name: str) -> Float[Tensor, "levels elements"]:
        """Contribution of each element to an extensive property, per level of theory."""
        return self.get_buffer(f"references_{name}")

    def scale(self, name: str) -> Float[Tensor, ""]:
        """What physical residuals are divided by (energy: residuals per atom)."""
        return self.get_buffer(f"scale_{name}")

    def set_table(self, table: ScalingTable) -> None:
        """Take over measured values; properties that the table does not know keep theirs."""
        self.provenance = dict(table.provenance)
        for name in self.names:
            if name in table.scales:
                self.get_buffer(f"scale_{name}").fill_(table.scales[name])
                self.get_buffer(f"shift_{name}").fill_(table.shifts[name])
            if name in table.references and has_references(PROPERTIES[name]) and name not in self.physical:
                self.get_buffer(f"references_{name}").copy_(table.references[name])

    def to_physical(self, name: str, values: Tensor, graph: AtomGraph) -> Tensor:
        """Scale, shift and add what the elements contribute. Energies come out in float64.

        Args:
            values: A head's normalised values, `[graphs, *shape]` or `[atoms, *shape]`.
        """
        prop = PROPERTIES[name]
        physical = values * self.scale(name).to(values.dtype)
        if not has_references(prop):
            return physical + self.get_buffer(f"shift_{name}").to(values.dtype)
        baseline = composition_baseline(self.references(name), graph)
        if prop.form == "scalar":
            return physical + baseline
        return physical + baseline[:, None, None] * torch.eye(3, dtype=baseline.dtype, device=baseline.device)


def composition_baseline(references: Float[Tensor, "levels elements"], graph: AtomGraph) -> Float[Tensor, " graphs"]:
    """Sum of what each atom's element contributes at its graph's level of theory."""
    atomic = references[take_rows(graph.level_index, graph.graph_index), graph.atomic_numbers]
    return sum_atoms(atomic, graph.graph_index, graph.num_graphs)


def fit_scaling(
    graphs: Sequence[AtomGraph],
    *,
    properties: frozenset[str],
    levels: Sequence[str],
    isolated_atoms: Mapping[str, Mapping[int, float]],
) -> ScalingTable:
    """Measure references, scales and shifts on training graphs (with edges).

    Args:
        graphs: Training structures, single or batched.
        properties: What the model predicts.
        levels: Levels of theory in the order of `level_index`.
        isolated_atoms: Level -> atomic number -> energy of the free atom, eV; where a level has them they are its
            reference energies, elsewhere these are fitted by ridge least squares.
    """
    references: dict[str, Tensor] = {}
    provenance: dict[str, str] = {}
    scales: dict[str, float] = {}
    shifts: dict[str, float] = {}
    for name in sorted(properties - UNLABELLED):
        prop = PROPERTIES[name]
        if has_references(prop):
            references[name], how = _fit_references(graphs, prop, levels, isolated_atoms if name == "energy" else {})
            if name == "energy":
                provenance = how
        values = _residuals(graphs, prop, references.get(name))
        if len(values) == 0:
            continue
        shifted = prop.kind == "regression" and prop.form == "scalar" and prop.level == "graph" and not prop.extensive
        shifts[name] = float(values.mean()) if shifted and prop.parity == 1 else 0.0
        spread = float((values - shifts[name]).square().mean().sqrt())
        scales[name] = spread if spread > 0 and prop.kind != "classification" else 1.0
    if "energy" in properties:
        scales["energy"] = scales.get("forces", scales.get("energy", 1.0))
        scales["stress"] = scales.get("stress", 1.0)
        shifts.update({name: 0.0 for name in ("energy", "forces", "stress") if name in scales})
    edges = sum(len(graph.senders) for graph in graphs)
    atoms = sum(graph.positions.shape[0] for graph in graphs)
    return ScalingTable(references, scales, shifts, max(1.0, edges / atoms), provenance)


def _labelled(graph: AtomGraph, name: str) -> Tensor:
    return graph.targets[name][graph.masks[name]]


def _residuals(graphs: Sequence[AtomGraph], prop: Property, references: Tensor | None) -> Tensor:
    """Labelled values minus what elements contribute, flat; energies per atom."""
    parts = []
    for graph in graphs:
        if prop.name not in graph.targets:
            continue
        values = _labelled(graph, prop.name)
        if references is not None and prop.level == "graph":
            mask = graph.masks[prop.name]
            baseline = composition_baseline(references, graph)[mask]
            if prop.form == "scalar":
                values = values - baseline
            else:
                values = values - baseline[:, None, None] * torch.eye(3, dtype=values.dtype)
            if prop.name == "energy":
                values = values / graph.num_atoms_per_graph[mask]
        parts.append(values.flatten())
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _fit_references(
    graphs: Sequence[AtomGraph],
    prop: Property,
    levels: Sequence[str],
    isolated_atoms: Mapping[str, Mapping[int, float]],
) -> tuple[Float[Tensor, "levels elements"], dict[str, str]]:
    table = torch.full((len(levels), NUM_ATOMIC_NUMBERS), torch.nan, dtype=torch.float64)
    table[:, 0] = 0.0
    how: dict[str, str] = {}
    for index, level in enumerate(levels):
        counts, values = _compositions(graphs, prop, index)
        labelled = torch.nonzero(counts.sum(0))[:, 0]
        given = isolated_atoms.get(level, {})
        if given:
            known = torch.tensor(sorted(given))
            table[index, known] = torch.tensor([given[int(number)] for number in known], dtype=torch.float64)
            how[level] = "energies of isolated atoms, given with the data"
            missing = [int(number) for number in labelled if int(number) not in given]
            if not missing:
                continue
            _fit_missing(table[index], counts, values, missing)
            how[level] += f"; fitted by ridge least squares for atomic numbers {missing}"
        elif len(values):
            table[index, labelled] = _ridge(counts[:, labelled], values)
            how[level] = f"ridge least squares on {len(values)} training labels" + _undetermined(counts[:, labelled])
        else:
            how[level] = "none: no labels at this level"
    return table, how


def complete_references(
    graphs: Sequence[AtomGraph], name: str, known: Float[Tensor, "levels elements"]
) -> tuple[Float[Tensor, "levels elements"], dict[int, tuple[int, ...]]]:
    """Fit what a table of references lacks against what it holds.

    Values of one level of theory belong together: each is what a fit leaves to it, beside the others of that fit. So an
    element that joins a table that exists cannot bring its value from a fit of its own.

    Args:
        graphs: Labelled structures, single or batched.
        name: Property of the table.
        known: NaN where a value is wanted.

    Returns:
        The table, NaN only where no label holds the element; index of a level -> atomic numbers that were fitted.
    """
    table, fitted = known.clone(), dict[int, tuple[int, ...]]()
    for level in range(len(table)):
        counts, values = _compositions(graphs, PROPERTIES[name], level)
        labelled = torch.nonzero(counts.sum(0))[:, 0].tolist()
        missing = [number for number in labelled if bool(table[level, number].isnan())]
        if missing:
            _fit_missing(table[level], counts, values, missing)
            fitted[level] = tuple(missing)
    return table, fitted


def _fit_missing(
    references: Float[Tensor, " elements"],
    counts: Float[Tensor, "labels elements"],
    values: Float[Tensor, " labels"],
    missing: Sequence[int],
) -> None:
    """Fit the references of some elements, in place, to what those of the others leave; on labels that hold any."""
    concerned = counts[:, missing].sum(1) > 0
    counts, values = counts[concerned], values[concerned]
    held = counts.clone()
    held[:, missing] = 0.0
    rest = values - torch.where(held > 0, held * references, 0.0).sum(1)
    references[missing] = _ridge(counts[:, missing], rest)


def _undetermined(counts: Float[Tensor, "labels elements"]) -> str:
    """What to say where compositions do not tell elements apart, as those of one molecule never do."""
    rank = int(torch.linalg.matrix_rank(counts.T @ counts))
    missing = counts.shape[1] - rank
    if missing == 0:
        return ""
    return (
        f", whose compositions leave {missing} of {counts.shape[1]} values open: their sums mean something, each alone "
        "does not"
    )


def _compositions(graphs: Sequence[AtomGraph], prop: Property, level: int) -> tuple[Tensor, Tensor]:
    """Element counts `[labels, 119]` and scalar parts `[labels]` of one level's labels."""
    rows, values = [], []
    for graph in graphs:
        if prop.name not in graph.targets:
            continue
        mask = graph.masks[prop.name] & (graph.level_index == level)
        if not bool(mask.any()):
            continue
        flat = graph.graph_index * NUM_ATOMIC_NUMBERS + graph.atomic_numbers
        counts = torch.bincount(flat, minlength=graph.num_graphs * NUM_ATOMIC_NUMBERS)
        rows.append(counts.view(graph.num_graphs, NUM_ATOMIC_NUMBERS)[mask].double())
        label = graph.targets[prop.name][mask]
        values.append(label if prop.form == "scalar" else torch.diagonal(label, dim1=1, dim2=2).mean(1))
    if not rows:
        return torch.zeros(0, NUM_ATOMIC_NUMBERS, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return torch.cat(rows), torch.cat(values)


def _ridge(counts: Float[Tensor, "labels elements"], values: Float[Tensor, " labels"]) -> Float[Tensor, " elements"]:
    """Least squares about the mean value per atom, so that directions without data stay at that mean.

    Columns are scaled to unit length first: the ridge then weighs a rare element as it weighs a common one.
    """
    mean = values.sum() / counts.sum()
    residual = values - counts.sum(1) * mean
    size = counts.square().sum(0).sqrt()
    scaled = counts / size
    gram = scaled.T @ scaled + RIDGE * torch.eye(len(size), dtype=counts.dtype)
    return mean + torch.linalg.solve(gram, scaled.T @ residual) / size
