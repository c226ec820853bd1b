"""Errors in physical units, per property and data set, accumulated over all batches and ranks.

Each metric keeps sums for every data set side by side, so that updating never waits for the device and no figure is an
average of batch averages. Names of logged metrics: `{stage}/{dataset}/{property}_{metric}_{unit}`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_matthews_corrcoef

from foundation.data.graph import AtomGraph
from foundation.properties import PROPERTIES, Property

ENERGY_PER_ATOM = "energy_per_atom"
ENERGY_PER_ATOM_UNIT = "eV/atom"
TOP_RANKS = (1, 2, 3)

Scores = dict[str, float]
"""Metric name -> value, in the property's unit or dimensionless."""


def unit_of(prop: str) -> str:
    """Unit of a property's errors, as written in reports."""
    return ENERGY_PER_ATOM_UNIT if prop == ENERGY_PER_ATOM else PROPERTIES[prop].unit


def metric_name(*, stage: str, dataset: str, prop: str, metric: str) -> str:
    """Name under which a score is logged; errors carry their unit, dimensionless scores none."""
    base = f"{stage}/{dataset}/{prop}_{metric}"
    if metric not in ("mae", "rmse"):
        return base
    label = "eV_per_atom" if prop == ENERGY_PER_ATOM else PROPERTIES[prop].unit_label
    return base if label == "1" else f"{base}_{label}"


def rows_to_datasets(batch: AtomGraph, prop: Property) -> Int[Tensor, " rows"]:
    """Data set of each graph or atom, whichever carries the property."""
    return batch.dataset_index[batch.graph_index] if prop.level == "atom" else batch.dataset_index


class PropertyMetric(Metric, ABC):
    """Scores of one property on every data set."""

    full_state_update = False

    def __init__(self, prop: Property, *, num_datasets: int, communicate: bool) -> None:
        """Start from nothing.

        Args:
            prop: What is judged.
            num_datasets: How many are told apart.
            communicate: Whether scores are over all ranks, which then must all ask for them; else over this one.
        """
        super().__init__(sync_on_compute=communicate)
        self.prop = prop
        self.num_datasets = num_datasets

    @abstractmethod
    def scores(self) -> dict[int, dict[str, Scores]]:
        """Data set index -> property (or what is derived from it) -> scores; only where labels were seen."""

    def computed(self) -> Tensor | tuple[Tensor, ...]:
        """`compute`, also where this rank saw no batch: another may have."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
            return self.compute()

    def kept(self) -> dict[str, Tensor | list[Tensor]]:
        """What was accumulated on this rank, for a checkpoint."""
        return {
            name: list(state) if isinstance(state, list) else state.clone() for name, state in self.metric_state.items()
        }

    def restore(self, kept: Mapping[str, Tensor | list[Tensor]]) -> None:
        """Go on from what `kept` gave."""
        for name, state in kept.items():
            moved = [part.to(self.device) for part in state] if isinstance(state, list) else state.to(self.device)
            setattr(self, name, moved)


class RegressionErrors(PropertyMetric):
    """Mean absolute and root mean square error over components; energies also per atom."""

    absolute: Tensor
    squared: Tensor
    count: Tensor

    def __init__(self, prop: Property, *, num_datasets: int, communicate: bool) -> None:
        super().__init__(prop, num_datasets=num_datasets, communicate=communicate)
        self.names = (prop.name, ENERGY_PER_ATOM) if prop.name == "energy" else (prop.name,)
        for state in ("absolute", "squared", "count"):
            zeros = torch.zeros(len(self.names), num_datasets, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, batch: AtomGraph, mask: Bool[Tensor, " rows"]) -> None:
        """Add a batch.

        Args:
            prediction: `[rows, *shape]`, physical units.
            batch: Holds the labels.
            mask: Rows that count.
        """
        residual = prediction.detach().to(torch.float64) - batch.targets[self.prop.name]
        residual = torch.where(mask.view(-1, *[1] * (residual.ndim - 1)), residual, 0.0).reshape(len(mask), -1)
        datasets = rows_to_datasets(batch, self.prop)
        for row, name in enumerate(self.names):
            values = residual / batch.num_atoms_per_graph[:, None] if name == ENERGY_PER_ATOM else residual
            self.absolute[row].index_add_(0, datasets, values.abs().mean(dim=1))
            self.squared[row].index_add_(0, datasets, values.square().mean(dim=1))
            self.count[row].index_add_(0, datasets, mask.to(torch.float64))

    def compute(self) -> Float[Tensor, "3 names datasets"]:
        """Mean absolute error, root mean square error and number of labelled rows."""
        return torch.stack([self.absolute / self.count, (self.squared / self.count).sqrt(), self.count])

    def scores(self) -> dict[int, dict[str, Scores]]:
        """Where labels were seen."""
        sums = self.computed()
        assert isinstance(sums, Tensor)
        table = sums.tolist()
        return {
            dataset: {
                name: {"mae": table[0][row][dataset], "rmse": table[1][row][dataset], "count": table[2][row][dataset]}
                for row, name in enumerate(self.names)
            }
            for dataset in range(self.count.shape[1])
            if table[2][0][dataset] > 0
        }


class ElementAccuracy(PropertyMetric):
    """Share of hidden elements that were guessed right."""

    correct: Tensor
    count: Tensor

    def __init__(self, prop: Property, *, num_datasets: int, communicate: bool) -> None:
        super().__init__(prop, num_datasets=num_datasets, communicate=communicate)
        for state in ("correct", "count"):
            self.add_state(state, torch.zeros(num_datasets, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Float[Tensor, "atoms n"], batch: AtomGraph, mask: Bool[Tensor, " atoms"]) -> None:
        """Add a batch; labels are class indices."""
        datasets = rows_to_datasets(batch, self.prop)
        right = (prediction.detach().argmax(dim=1) == batch.targets[self.prop.name]) & mask
        self.correct.index_add_(0, datasets, right.to(torch.float64))
        self.count.index_add_(0, datasets, mask.to(torch.float64))

    def compute(self) -> Float[Tensor, "2 datasets"]:
        """Accuracy and number of hidden atoms."""
        return torch.stack([self.correct / self.count, self.count])

    def scores(self) -> dict[int, dict[str, Scores]]:
        """Where atoms were hidden."""
        sums = self.computed()
        assert isinstance(sums, Tensor)
        accuracy, count = sums.tolist()
        return {
            dataset: {self.prop.name: {"accuracy": accuracy[dataset], "count": count[dataset]}}
            for dataset in range(len(count))
            if count[dataset] > 0
        }


class BinaryScores(PropertyMetric):
    """Ranking and classification scores of a binary property; keeps every labelled logit.

    A structure that several ranks saw, to fill up the last batch, counts once.
    """

    logits: list[Tensor]
    labels: list[Tensor]
    owners: list[Tensor]
    masks: list[Tensor]

    def __init__(self, prop: Property, *, num_datasets: int, communicate: bool) -> None:
        super().__init__(prop, num_datasets=num_datasets, communicate=communicate)
        for state in ("logits", "labels", "owners", "masks"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, prediction: Float[Tensor, " rows"], batch: AtomGraph, mask: Bool[Tensor, " rows"]) -> None:
        """Add a batch; a label above zero is positive."""
        starts = torch.cumsum(batch.num_atoms_per_graph, 0) - batch.num_atoms_per_graph
        rows = torch.arange(len(mask), device=mask.device)
        owners = torch.stack([batch.dataset_index, batch.structure_index], dim=1)
        position = torch.zeros_like(rows)
        if self.prop.level == "atom":
            owners, position = owners[batch.graph_index], rows - starts[batch.graph_index]
        self.logits.append(prediction.detach().to(torch.float64))
        self.labels.append(batch.targets[self.prop.name] > 0)
        self.owners.append(torch.cat([owners, position[:, None]], dim=1))
        self.masks.append(mask)

    def _pad(self) -> None:
        """Give a rank that saw no batch empty rows to gather: ranks must agree on what is sent."""
        if len(self.logits) == 0:
            self.logits.append(torch.zeros(0, dtype=torch.float64, device=self.device))
            self.labels.append(torch.zeros(0, dtype=torch.bool, device=self.device))
            self.owners.append(torch.zeros(0, 3, dtype=torch.int64, device=self.device))
            self.masks.append(torch.zeros(0, dtype=torch.bool, device=self.device))

    def compute(self) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"], Int[Tensor, "rows 3"]]:
        """All labelled logits, labels, and their (data set, structure, atom)."""
        parts = (self.logits, self.labels, self.owners, self.masks)
        logits, labels, owners, masks = (part if isinstance(part, Tensor) else torch.cat(part) for part in parts)
        return logits[masks], labels[masks], owners[masks]

    def scores(self) -> dict[int, dict[str, Scores]]:
        """Where labels were seen."""
        self._pad()
        # torchmetrics makes one-element tensors scalars.
        logits, labels, owners = (part.cpu().numpy() for part in self.computed())
        logits, labels, owners = logits.reshape(-1), labels.reshape(-1), owners.reshape(-1, 3)
        _, kept = np.unique(owners, axis=0, return_index=True)
        logits, labels, owners = logits[kept], labels[kept], owners[kept]
        found = {}
        for dataset in np.unique(owners[:, 0]).tolist():
            here = owners[:, 0] == dataset
            scores = binary_scores(logits[here], labels[here])
            if self.prop.level == "atom":
                scores |= top_scores(logits[here], labels[here], owners[here, 1])
            found[dataset] = {self.prop.name: scores}
        return found


def binary_scores(logits: Float[np.ndarray, " rows"], labels: Bool[np.ndarray, " rows"]) -> Scores:
    """Accuracy at logit zero, and where both classes occur the area under the ROC curve and Matthews' correlation."""
    scores = {"accuracy": float(((logits > 0) == labels).mean()), "count": float(len(labels))}
    if 0 < labels.sum() < len(labels):
        probability, target = torch.from_numpy(logits).sigmoid(), torch.from_numpy(labels).to(torch.int64)
        scores["auc"] = float(binary_auroc(probability, target))
        scores["mcc"] = float(binary_matthews_corrcoef(probability, target))
    return scores


def top_scores(
    logits: Float[np.ndarray, " atoms"],
    labels: Bool[np.ndarray, " atoms"],
    molecules: Int[np.ndarray, " atoms"],
) -> Scores:
    """Share of molecules with a positive atom among their k highest; molecules without any positive do not count."""
    order = np.lexsort((-logits, molecules))
    labels, molecules = labels[order], molecules[order]
    _, starts, inverse = np.unique(molecules, return_index=True, return_inverse=True)
    rank = np.arange(len(molecules)) - starts[inverse]
    with_site = np.unique(inverse[labels])
    if len(with_site) == 0:
        return {}
    return {f"top{k}": len(np.unique(inverse[labels & (rank < k)])) / len(with_site) for k in TOP_RANKS}


def build_metric(prop: Property, *, num_datasets: int, communicate: bool) -> PropertyMetric:
    """The metric that judges a property, over all ranks or this one alone."""
    if prop.name == "masked_element":
        return ElementAccuracy(prop, num_datasets=num_datasets, communicate=communicate)
    if prop.kind == "classification":
        return BinaryScores(prop, num_datasets=num_datasets, communicate=communicate)
    return RegressionErrors(prop, num_datasets=num_datasets, communicate=communicate)


def named_scores(
    metrics: Mapping[str, PropertyMetric], *, stage: str, dataset_names: Sequence[str]
) -> dict[str, float]:
    """Scores of all metrics under the names they are logged by; without counts."""
    named = {}
    for metric in metrics.values():
        for dataset, by_property in metric.scores().items():
            for prop, scores in by_property.items():
                for score, value in scores.items():
                    if score != "count":
                        name = metric_name(stage=stage, dataset=dataset_names[dataset], prop=prop, metric=score)
                        named[name] = value
    return named


def overall_scores(metrics: Mapping[str, PropertyMetric]) -> dict[str, tuple[float, str]]:
    """One figure a property over all sets: mean absolute error and its unit (energies per atom), or accuracy and ""."""
    overall = {}
    for name, metric in metrics.items():
        shown = ENERGY_PER_ATOM if name == "energy" else name
        found = [by_property[shown] for by_property in metric.scores().values()]
        if found:
            score = "mae" if "mae" in found[0] else "accuracy"
            total = sum(scores["count"] for scores in found)
            value = sum(scores[score] * scores["count"] for scores in found) / total
            overall[name] = (value, unit_of(shown) if score == "mae" else "")
    return overall


class LossSums(Metric):
    """Sum and count of each objective's loss over the labelled entries of all batches and ranks."""

    full_state_update = False
    sums: Tensor

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, num_objectives, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Float[Tensor, "2 objectives"]) -> None:
        """Add sums and counts of a batch."""
        self.sums += sums.detach()

    def compute(self) -> Float[Tensor, "2 objectives"]:
        """Sums and counts."""
        return self.sums
