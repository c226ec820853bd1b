"""Held-back molecules that training has seen."""

from __future__ import annotations

from pathlib import Path

from foundation.config import validate
from foundation.data.card import DatasetConfig
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.run.leakage import seen_in_training

ENTRY = {"smiles_key": "smiles", "level_of_theory": "assay", "charge": "formal", "spin": "formal", "properties": {}}
PARTS = {
    "a": {"train": ["CO", "C[C@H](O)F", "CN"], "test": ["OC", "C[C@@H](O)F", "CC"]},
    "b": {"train": ["CCO"], "test": ["NC", "N"]},
}


def test_molecules_on_both_sides_of_a_split_are_counted(tmp_path: Path) -> None:
    datasets = {}
    for name, parts in PARTS.items():
        source = {}
        for part, molecules in parts.items():
            path = tmp_path / f"{name}-{part}.csv"
            path.write_text("\n".join(["smiles", *molecules]), encoding="utf-8")
            source[part] = str(path)
        datasets[name] = validate(DatasetConfig, {**ENTRY, "source": source}, where=name)
    data = GraphDataModule(datasets, cutoff=3.0, batch=BatchConfig(max_structures=2), seed=0)
    data.setup()
    [own, other] = seen_in_training(data)
    assert "data a: 2 of 3 molecules in val and test are in the training part as well" in own
    assert "data b: 1 of 2 molecules in val and test are in the training part of data a as well" in other
