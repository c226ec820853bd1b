"""Evaluation outside of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.data.graph import AtomGraph, collate
from foundation.data.sampler import BatchConfig
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES
from foundation.scaling import composition_baseline
from foundation.training.evaluation import bounded_batches, evaluate
from foundation.training.metrics import build_metric

MakeModel = Callable[[], FoundationModel]


def test_errors_are_those_of_the_predictions_over_labelled_entries(
    graphs: list[AtomGraph], make_model: MakeModel
) -> None:
    model = make_model()
    found = evaluate(model, {"mine": graphs}, batch=BatchConfig(max_structures=5), device="cpu")
    batch = collate(graphs)
    outputs = model(batch, properties=("energy", "forces"))
    labelled = batch.masks["forces"]
    residual = (outputs["forces"] - batch.targets["forces"])[labelled].detach().numpy()
    errors = found.metrics["mine"]["forces"]
    assert errors["mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-5)
    assert errors["rmse"] == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-5)
    assert errors["count"] == len(residual)
    assert errors["unit"] == "eV/Å"
    per_atom = (outputs["energy"] - batch.targets["energy"]).detach() / batch.num_atoms_per_graph
    assert found.metrics["mine"]["energy_per_atom"]["mae"] == pytest.approx(float(per_atom.abs().mean()), rel=1e-5)
    assert found.metrics["mine"]["energy_per_atom"]["unit"] == "eV/atom"
    assert {"accuracy", "auc", "mcc", "count", "unit"} == found.metrics["mine"]["handedness"].keys()
    arrays = found.predictions["mine"]
    np.testing.assert_allclose(arrays["forces__prediction"] - arrays["forces__target"], residual, rtol=1e-4, atol=1e-6)
    assert len(arrays["energy_per_atom__target"]) == len(graphs)
    composition = composition_baseline(model.scaling.reference_energies, batch)
    np.testing.assert_allclose(arrays["energy__composition"], composition.numpy())


def test_batches_do_not_change_the_errors(graphs: list[AtomGraph], make_model: MakeModel) -> None:
    model = make_model().double()
    # A flat structure has no handedness: its logit is zero up to rounding, whose sign may depend on the batch.
    logits = [float(model(collate([graph]), properties=("handedness",))["handedness"].detach()) for graph in graphs]
    graphs = [graph for graph, logit in zip(graphs, logits, strict=True) if abs(logit) > 1e-6]
    assert len(graphs) >= 8
    one, many = (
        evaluate(model, {"mine": graphs[:10]}, batch=BatchConfig(max_structures=size), device="cpu").metrics["mine"]
        for size in (1, 10)
    )
    for name, scores in one.items():
        for score, value in scores.items():
            assert value == (value if isinstance(value, str) else pytest.approx(many[name][score], rel=1e-5))
            assert many[name].keys() == scores.keys()


def test_data_sets_and_properties_can_be_chosen(graphs: list[AtomGraph], make_model: MakeModel) -> None:
    found = evaluate(
        make_model(),
        {"mine": graphs[:4], "other": graphs[4:8]},
        batch=BatchConfig(max_structures=4),
        device="cpu",
        properties={"mine": ("energy",), "other": ()},
    )
    assert {name: set(errors) for name, errors in found.metrics.items()} == {"mine": {"energy", "energy_per_atom"}}


def test_a_model_in_training_mode_is_left_in_it(graphs: list[AtomGraph], make_model: MakeModel) -> None:
    model = make_model().train()
    before = graphs[0].dataset_index.clone()
    evaluate(model, {"mine": graphs[:1]}, batch=BatchConfig(max_structures=1), device="cpu")
    assert model.training
    assert torch.equal(graphs[0].dataset_index, before)


def test_evaluation_never_communicates(
    graphs: list[AtomGraph], make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a rank that evaluates alone would wait for ever")

    store = torch.distributed.FileStore(str(tmp_path / "ranks"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for name in ("all_gather", "all_reduce", "barrier", "broadcast"):
            monkeypatch.setattr(torch.distributed, name, refuse)
        with pytest.raises(AssertionError, match="for ever"):
            build_metric(PROPERTIES["energy"], num_datasets=1, communicate=True).computed()
        found = evaluate(make_model(), {"mine": graphs[:4]}, batch=BatchConfig(max_structures=4), device="cpu")
    finally:
        torch.distributed.destroy_process_group()
    assert {"energy", "handedness"} <= found.metrics["mine"].keys()


def test_batches_respect_every_bound_and_lose_nothing(graphs: list[AtomGraph]) -> None:
    bounds = BatchConfig(max_structures=4, max_atoms=14, max_edges=40)
    batches = list(bounded_batches(graphs, bounds))
    assert torch.cat([batch.structure_index for batch in batches]).tolist() == list(range(len(graphs)))
    assert len(batches) > len(graphs) / 4
    for batch in batches:
        assert batch.num_graphs <= 4
        assert batch.num_graphs == 1 or (len(batch.positions) <= 14 and len(batch.senders) <= 40)
