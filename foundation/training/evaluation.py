"""Errors of a model on data sets, outside of training, by the same metrics and in the same units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foundation.data.graph import AtomGraph, collate
from foundation.data.sampler import BatchConfig
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES
from foundation.scaling import has_references
from foundation.training.metrics import ENERGY_PER_ATOM, PropertyMetric, build_metric, unit_of

Report = dict[str, dict[str, dict[str, float | int | str]]]
"""Data set -> property -> `mae`, `rmse` (or `accuracy`, `auc`, `mcc`, `top1`, …), `count`, `unit`."""


@dataclass
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: As `foundation evaluate --json` writes it.
        predictions: Data set -> `{property}__prediction` and `{property}__target`, labelled entries only, in order;
            classification as logits, energies also per atom; and `{property}__composition`, what the elements alone
            would predict, where there are reference energies or their like.
    """

    metrics: Report = field(default_factory=dict)
    predictions: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def evaluate(
    model: FoundationModel,
    graphs: Mapping[str, Sequence[AtomGraph]],
    *,
    batch: BatchConfig,
    device: torch.device | str,
    properties: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Compare predictions with all labels that the model can predict, on this rank alone: it never communicates.

    Args:
        model: Evaluated as it is, in evaluation mode; moved to `device`.
        graphs: Data set -> structures with edges up to the model's cutoff.
        batch: Bounds of one batch; a structure above them makes a batch alone.
        device: Where to compute.
        properties: Data set -> properties to compare; None for all that are labelled.

    Returns:
        Data sets without any such label are left out.
    """
    evaluation = Evaluation()
    was_training = model.training
    model.to(device).eval()
    for dataset, structures in graphs.items():
        wanted = None if properties is None else properties[dataset]
        metrics, arrays = _evaluate_dataset(model, structures, batch=batch, device=device, properties=wanted)
        if metrics:
            evaluation.metrics[dataset] = metrics
            evaluation.predictions[dataset] = arrays
    model.train(was_training)
    return evaluation


def _evaluate_dataset(
    model: FoundationModel,
    structures: Sequence[AtomGraph],
    *,
    batch: BatchConfig,
    device: torch.device | str,
    properties: Sequence[str] | None,
) -> tuple[dict[str, dict[str, float | int | str]], dict[str, np.ndarray]]:
    metrics: dict[str, PropertyMetric] = {}
    pieces: dict[str, list[np.ndarray]] = {}
    for graph in bounded_batches(structures, batch):
        graph = graph.to(device)
        graph.dataset_index = torch.zeros_like(graph.dataset_index)
        asked = [name for name in graph.targets if name in model.properties]
        asked = [name for name in asked if properties is None or name in properties]
        if not asked:
            continue
        with torch.no_grad():
            outputs = model(graph, properties=tuple(asked))
        for name in asked:
            if name not in metrics:
                metrics[name] = build_metric(PROPERTIES[name], num_datasets=1, communicate=False).to(device)
            metrics[name].update(outputs[name], graph, graph.masks[name])
            for key, values in _labelled_rows(name, outputs[name], graph, model):
                pieces.setdefault(key, []).append(values)
    report: dict[str, dict[str, float | int | str]] = {}
    for metric in metrics.values():
        for name, scores in metric.scores().get(0, {}).items():
            report[name] = {**scores, "count": int(scores["count"]), "unit": unit_of(name)}
    return report, {key: np.concatenate(values) for key, values in pieces.items()}


def _labelled_rows(
    name: str, prediction: Tensor, graph: AtomGraph, model: FoundationModel
) -> Iterator[tuple[str, np.ndarray]]:
    mask = graph.masks[name]
    kinds = {"target": graph.targets[name], "prediction": prediction}
    if has_references(PROPERTIES[name]):
        kinds["composition"] = model.scaling.to_physical(name, torch.zeros_like(prediction), graph)
    for kind, values in kinds.items():
        rows = values[mask].detach().to(torch.float64)
        yield f"{name}__{kind}", rows.cpu().numpy()
        if name == "energy":
            yield f"{ENERGY_PER_ATOM}__{kind}", (rows / graph.num_atoms_per_graph[mask]).cpu().numpy()


def bounded_batches(structures: Sequence[AtomGraph], bounds: BatchConfig) -> Iterator[AtomGraph]:
    """Batch structures in order, as many at a time as the bounds allow, at least one."""
    waiting: list[AtomGraph] = []
    atoms = edges = 0
    for graph in structures:
        more_atoms, more_edges = graph.positions.shape[0], graph.senders.shape[0]
        full = (
            len(waiting) >= bounds.max_structures
            or (bounds.max_atoms is not None and atoms + more_atoms > bounds.max_atoms)
            or (bounds.max_edges is not None and edges + more_edges > bounds.max_edges)
        )
        if waiting and full:
            yield collate(waiting)
            waiting, atoms, edges = [], 0, 0
        waiting.append(graph)
        atoms, edges = atoms + more_atoms, edges + more_edges
    if waiting:
        yield collate(waiting)
