"""Memory of training on structures of 3 and 400 atoms, measured, against that of the batches that are tried first."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from foundation.backbones import EquivariantConfig
from foundation.cost import labelled_graph
from foundation.data.bounds import BatchConfig


@pytest.mark.ci
def test_no_batch_takes_more_memory_than_those_tried_before_the_first_step(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository))
    script = importlib.import_module("benchmarks.batch_memory")
    backbone = EquivariantConfig(
        cutoff=4.0,
        channels=4,
        pseudo_channels=0,
        num_layers=1,
        edge_degree=1,
        degree=1,
        product_degree=1,
        correlation=2,
    )
    graphs = [labelled_graph(atoms, cutoff=backbone.cutoff) for atoms in script.structures(100, 2)]
    config = BatchConfig(max_structures=4096, max_atoms=500, max_slots=12_000, packing="full")
    steps = script.Steps(backbone, torch.device("cpu"))
    trained, tried = script.largest_peaks(steps, graphs, config, epochs=1)
    assert trained <= 1.005 * tried, "three atoms more or less"
    loose = BatchConfig(max_structures=102, packing="in_order")
    without, _ = script.largest_peaks(steps, graphs, loose, epochs=1)
    assert without > 1.3 * tried, "without a bound there is something to run out of"
