"""Metrics in physical units, per data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.data.graph import AtomGraph, collate, label_mask
from foundation.properties import PROPERTIES
from foundation.training.metrics import (
    BinaryScores,
    ElementAccuracy,
    RegressionErrors,
    binary_scores,
    build_metric,
    metric_name,
    named_scores,
    overall_scores,
    top_scores,
)


def test_errors_are_over_all_entries_not_averages_of_batch_averages(graphs: list[AtomGraph]) -> None:
    metric = RegressionErrors(PROPERTIES["forces"], num_datasets=2, communicate=True)
    residuals: dict[int, list[np.ndarray]] = {0: [], 1: []}
    generator = torch.Generator().manual_seed(0)
    for batch in (collate(graphs[:3]), collate(graphs[3:20])):
        error = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
        mask = batch.masks["forces"]
        metric.update(batch.targets["forces"] + error, batch, mask)
        for dataset, found in residuals.items():
            rows = mask & (batch.dataset_index[batch.graph_index] == dataset)
            found.append(error[rows].numpy())
    scores = metric.scores()
    for dataset, found in residuals.items():
        every = np.concatenate(found)
        assert scores[dataset]["forces"]["mae"] == pytest.approx(np.abs(every).mean(), rel=1e-12)
        assert scores[dataset]["forces"]["rmse"] == pytest.approx(np.sqrt((every**2).mean()), rel=1e-12)
        assert scores[dataset]["forces"]["count"] == len(every)


def test_energies_are_judged_per_structure_and_per_atom(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs[:6])
    metric = RegressionErrors(PROPERTIES["energy"], num_datasets=2, communicate=True)
    metric.update(batch.targets["energy"] + 0.5 * batch.num_atoms_per_graph, batch, batch.masks["energy"])
    first = metric.scores()[0]
    assert first["energy_per_atom"]["mae"] == pytest.approx(0.5)
    here = batch.dataset_index == 0
    expected = 0.5 * batch.num_atoms_per_graph[here].double().mean()
    assert first["energy"]["mae"] == pytest.approx(float(expected))


def test_data_sets_without_labels_are_left_out(graphs: list[AtomGraph]) -> None:
    batch = collate([graph for graph in graphs if int(graph.dataset_index) == 0])
    metric = RegressionErrors(PROPERTIES["energy"], num_datasets=2, communicate=True)
    assert metric.scores() == {}
    metric.update(batch.targets["energy"], batch, batch.masks["energy"])
    assert set(metric.scores()) == {0}


def test_binary_scores_match_a_hand_count() -> None:
    logits = np.array([2.0, 1.0, 0.5, -1.0, -2.0])
    labels = np.array([True, False, True, False, True])
    scores = binary_scores(logits, labels)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    # Of 6 pairs (positive, negative) these rank right: (2, 1), (2, -1), (0.5, -1).
    assert scores["auc"] == pytest.approx(3 / 6)
    assert scores["mcc"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))


def test_one_class_alone_has_an_accuracy_but_no_ranking() -> None:
    assert binary_scores(np.array([1.0, -1.0]), np.array([True, True])) == {"accuracy": 0.5, "count": 2.0}


def test_top_k_counts_molecules_whose_best_atoms_hold_a_site() -> None:
    molecules = np.array([7, 7, 7, 7, 3, 3, 3, 9, 9])
    logits = np.array([0.1, 0.9, 0.5, 0.3, 1.0, 2.0, 3.0, 0.0, 1.0])
    labels = np.array([False, False, False, True, True, True, False, False, False])
    # Molecule 7: the site is third; molecule 3: the best site is second; molecule 9 has none.
    assert top_scores(logits, labels, molecules) == {"top1": 0.0, "top2": 0.5, "top3": 1.0}


def test_a_structure_seen_twice_counts_once(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs[:5])
    metric = BinaryScores(PROPERTIES["handedness"], num_datasets=2, communicate=True)
    logits = torch.arange(5.0) - 2
    for _ in range(2):
        metric.update(logits, batch, label_mask(batch, "handedness"))
    assert sum(scores["handedness"]["count"] for scores in metric.scores().values()) == 5


def test_a_rank_without_batches_still_has_something_to_gather() -> None:
    metric = BinaryScores(PROPERTIES["site_of_metabolism"], num_datasets=2, communicate=True)
    assert metric.scores() == {}
    assert [len(part) for part in (metric.logits, metric.labels, metric.owners, metric.masks)] == [1, 1, 1, 1]


def test_element_accuracy(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs[:2])
    batch.targets["masked_element"] = torch.zeros(batch.positions.shape[0], dtype=torch.int64)
    logits = torch.zeros(batch.positions.shape[0], 3)
    logits[0, 1] = 1
    metric = ElementAccuracy(PROPERTIES["masked_element"], num_datasets=1, communicate=True)
    mask = torch.zeros(batch.positions.shape[0], dtype=torch.bool)
    mask[:4] = True
    metric.update(logits, batch, mask)
    assert metric.scores() == {0: {"masked_element": {"accuracy": 0.75, "count": 4.0}}}


def test_names_state_stage_data_set_property_and_unit(graphs: list[AtomGraph]) -> None:
    batch = collate(graphs[:6])
    metrics = {
        name: build_metric(PROPERTIES[name], num_datasets=2, communicate=True)
        for name in ("energy", "forces", "handedness")
    }
    for name, metric in metrics.items():
        metric.update(torch.zeros_like(batch.targets[name]), batch, batch.masks[name])
    named = named_scores(metrics, stage="val", dataset_names=("rmd17", "spice"))
    assert {
        "val/rmd17/energy_mae_eV",
        "val/rmd17/energy_per_atom_rmse_eV_per_atom",
        "val/spice/energy_mae_eV",
        "val/rmd17/forces_mae_eV_per_A",
        "val/rmd17/handedness_accuracy",
    } <= named.keys()
    assert metric_name(stage="val", dataset="a", prop="stress", metric="rmse") == "val/a/stress_rmse_eV_per_A3"
    assert overall_scores(metrics)["energy"][1] == "eV/atom"
