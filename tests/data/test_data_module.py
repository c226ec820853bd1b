"""The data of a run: several data sets in one mixture, prepared once, served in bounded batches."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from foundation.config import validate
from foundation.data.card import DatasetConfig, resolve
from foundation.data.mixture import MixtureConfig
from foundation.data.module import GraphDataModule
from foundation.data.prepare import prepare
from foundation.data.sampler import BatchConfig
from foundation.errors import InputError

CUTOFF = 3.0


def write_molecules(path: Path, count: int, *, forces: bool) -> Path:
    """Chains of two to five atoms, shaken; chain i has energy -i."""
    random = np.random.default_rng(0)
    frames = []
    for number in range(count):
        num_atoms = 2 + number % 4
        positions = 1.2 * np.arange(num_atoms)[:, None] * np.ones(3) + random.normal(scale=0.05, size=(num_atoms, 3))
        atoms = ase.Atoms("COHN"[:num_atoms] if num_atoms < 5 else "COHNO", positions=positions)
        atoms.info["spin"] = 1 + int(atoms.numbers.sum()) % 2
        labels: dict[str, Any] = {"energy": -float(number)}
        if forces:
            labels["forces"] = random.normal(size=(num_atoms, 3))
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return path


def dataset(path: Path, *, forces: bool, level: str = "PBE", **changes: object) -> DatasetConfig:
    labels = {"energy": {"key": "energy", "unit": "eV"}}
    if forces:
        labels["forces"] = {"key": "forces", "unit": "eV/Å"}
    facts: dict[str, object] = {
        "source": str(path),
        "format": "extxyz",
        "level_of_theory": level,
        "charge": 0,
        "spin": {"key": "spin"},
        "properties": labels,
        "split": {"train": 20, "val": 6, "test": 4, "seed": 0},
    }
    return validate(DatasetConfig, facts | changes, where="test")


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, DatasetConfig]:
    """Two data sets of different labels and levels of theory."""
    with_forces = write_molecules(tmp_path / "a.xyz", 30, forces=True)
    energies = write_molecules(tmp_path / "b.xyz", 30, forces=False)
    return {"first": dataset(with_forces, forces=True), "second": dataset(energies, forces=False, level="HF")}


def serve(datasets: dict[str, DatasetConfig], tmp_path: Path, **changes: object) -> GraphDataModule:
    options: dict[str, object] = {
        "cutoff": CUTOFF,
        "batch": BatchConfig(max_structures=8),
        "seed": 0,
        "cache_dir": tmp_path / "cache",
    }
    module = GraphDataModule(datasets, **(options | changes))  # type: ignore[arg-type]
    module.setup()
    return module


def identity(batch: Any) -> list[tuple[int, int]]:
    return list(zip(batch.dataset_index.tolist(), batch.structure_index.tolist(), strict=True))


def test_one_epoch_serves_every_training_structure_with_its_own_labels(
    datasets: dict[str, DatasetConfig], tmp_path: Path
) -> None:
    module = serve(datasets, tmp_path)
    assert module.dataset_names == ("first", "second")
    assert module.levels == ("PBE", "HF")
    assert module.elements == (1, 6, 7, 8)
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    served = [pair for batch in batches for pair in identity(batch)]
    expected = [
        (place, row) for place, name in enumerate(datasets) for row in module.graphs(name, "train").rows.tolist()
    ]
    assert sorted(served) == sorted(expected)
    for batch in batches:
        assert torch.equal(batch.level_index, batch.dataset_index)
        assert torch.equal(batch.targets["energy"], -batch.structure_index.double())
        labelled = batch.dataset_index[batch.graph_index] == 0
        assert torch.equal(batch.masks["forces"], labelled)
        assert (batch.targets["forces"][~labelled] == 0).all()


def test_splits_do_not_overlap_and_evaluation_comes_in_order(
    datasets: dict[str, DatasetConfig], tmp_path: Path
) -> None:
    module = serve(datasets, tmp_path)
    for name in datasets:
        rows = np.concatenate([module.graphs(name, split).rows for split in ("train", "val", "test")])
        assert sorted(rows.tolist()) == list(range(30))
    served = [pair for batch in module.val_dataloader() for pair in identity(batch)]
    assert served == [
        (place, row) for place, name in enumerate(datasets) for row in module.graphs(name, "val").rows.tolist()
    ]
    assert [batch.num_graphs for batch in module.test_dataloader()] == [8]


def test_batches_do_not_depend_on_the_number_of_workers(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    alone = list(serve(datasets, tmp_path).train_dataloader())
    helped = list(serve(datasets, tmp_path, num_workers=2).train_dataloader())
    forgetful = list(serve(datasets, tmp_path, num_workers=2, memory_bytes=0).train_dataloader())
    for others in (helped, forgetful):
        for one, other in zip(alone, others, strict=True):
            assert one.to_dict().keys() == other.to_dict().keys()
            for name in ("positions", "senders", "receivers", "edge_shifts", "structure_index", "slot_senders"):
                assert torch.equal(one[name], other[name]), name
            assert torch.equal(one.targets["forces"], other.targets["forces"])


def test_epochs_differ_and_repeat_with_the_seed(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    def order(epoch: int, seed: int) -> list[list[tuple[int, int]]]:
        loader = serve(datasets, tmp_path, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [identity(batch) for batch in loader]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_weights_of_data_sets_shape_the_epoch(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    weighted = {
        name: config.model_copy(update={"weight": weight})
        for (name, config), weight in zip(datasets.items(), (3.0, 1.0), strict=True)
    }
    loader = serve(weighted, tmp_path, mixture=MixtureConfig(epoch_draws=16)).train_dataloader()
    drawn = [place for batch in loader for place, _ in identity(batch)]
    assert (drawn.count(0), drawn.count(1)) == (12, 4)


def test_batches_are_bounded_by_edges(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    bounds = BatchConfig(max_structures=100, max_atoms=30, max_edges=60)
    for _ in range(2):  # counted first, then read back
        module = serve(datasets, tmp_path, batch=bounds)
        batches = list(module.train_dataloader())
        assert all(len(batch.senders) <= 60 and len(batch.positions) <= 30 for batch in batches)
        assert max(len(batch.senders) for batch in batches) > 40
    counts = module.stores["first"].load_neighbor_counts(CUTOFF)[:, 0]
    train = module.graphs("first", "train")
    assert counts[train.rows].tolist() == [len(graph.senders) for graph in train]


def test_a_structure_above_the_bound_is_named(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    module = serve(datasets, tmp_path, batch=BatchConfig(max_structures=8, max_edges=7))
    with pytest.raises(InputError, match=r"a\.xyz.*edges alone.*batch\.max_edges is 7"):
        module.train_dataloader()


def test_graphs_are_kept_in_memory_up_to_the_bound(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    kept = serve(datasets, tmp_path).graphs("first", "train")
    assert kept[0] is kept[0]
    assert all(one is other for one, other in zip(kept, kept, strict=True))
    built = serve(datasets, tmp_path, memory_bytes=0).graphs("first", "train")
    assert built[0] is not built[0]
    some = serve(datasets, tmp_path, memory_bytes=100_000).graphs("first", "train")
    shared = sum(one is other for one, other in zip(list(some), list(some), strict=True))
    assert 0 < shared < len(some)


def test_data_are_read_once_and_found_again_by_content(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    serve(datasets, tmp_path)
    stores = tmp_path / "cache" / "stores"
    before = {path: path.stat().st_mtime_ns for path in stores.glob("*/metadata.json")}
    assert len(before) == 2
    os.rename(tmp_path / "a.xyz", tmp_path / "elsewhere.xyz")
    os.rename(tmp_path / "elsewhere.xyz", tmp_path / "a.xyz")
    serve(datasets, tmp_path, batch=BatchConfig(max_structures=2), cutoff=4.0)
    assert {path: path.stat().st_mtime_ns for path in stores.glob("*/metadata.json")} == before

    write_molecules(tmp_path / "a.xyz", 31, forces=True)
    module = serve(datasets, tmp_path)
    assert len(module.stores["first"]) == 31, "an edited file is read anew"
    assert len(list(stores.iterdir())) == 3


def test_processes_that_prepare_at_once_all_get_the_store(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    together, lengths = fork.Barrier(3), fork.SimpleQueue()

    def prepare_one() -> None:
        together.wait(60.0)
        lengths.put(len(prepare(resolve(datasets["first"], name="first"), cache_dir=tmp_path / "cache")))

    processes = [fork.Process(target=prepare_one) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60.0)
    assert [lengths.get() for _ in processes] == [30, 30, 30]
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1


def test_another_name_or_split_does_not_read_the_data_again(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    serve(datasets, tmp_path)
    again = dataset(tmp_path / "a.xyz", forces=True, split={"train": 5, "val": 5})
    module = serve({"renamed": again}, tmp_path)
    assert len(module.graphs("renamed", "train")) == 5
    assert module.splits("renamed") == ("train", "val")
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 2, "those of the two data sets of before"


def test_without_validation_structures_there_is_nothing_to_validate(tmp_path: Path) -> None:
    path = write_molecules(tmp_path / "a.xyz", 10, forces=True)
    module = serve({"only": dataset(path, forces=True, split={"train": 10})}, tmp_path)
    assert module.val_dataloader() == []
    with pytest.raises(InputError, match=r"data 'only' has no split 'test'; it has: train"):
        module.graphs("only", "test")


def test_an_unknown_data_set_is_an_error_that_names_the_known(
    datasets: dict[str, DatasetConfig], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no data set 'third'; data sets: first, second"):
        serve(datasets, tmp_path).graphs("third", "train")


def test_a_store_elsewhere_serves_what_its_sources_did(datasets: dict[str, DatasetConfig], tmp_path: Path) -> None:
    at_home = serve(datasets, tmp_path)
    theirs = next(iter(at_home.train_dataloader()))
    place = at_home.stores["first"].path.rename(tmp_path / "moved")
    for address in (str(place), f"file://{place}"):
        stored = validate(DatasetConfig, {"store": address, "split": datasets["first"].split}, where="test")
        module = serve({"first": stored, "second": datasets["second"]}, tmp_path)
        assert module.levels == at_home.levels
        assert module.resolved["first"].properties == at_home.resolved["first"].properties
        ours = next(iter(module.train_dataloader()))
        assert identity(ours) == identity(theirs)
        assert torch.equal(ours.targets["forces"], theirs.targets["forces"])
    with pytest.raises(
        InputError, match="data 'x': charge: a store has settled it; allowed beside store: split, weight"
    ):
        resolve(validate(DatasetConfig, {"store": str(place), "charge": 0}, where="test"), name="x")
    with pytest.raises(InputError, match="not a store"):
        resolve(validate(DatasetConfig, {"store": str(tmp_path)}, where="test"), name="x")


def test_levels_follow_the_models_order_and_unknown_ones_are_refused(
    datasets: dict[str, DatasetConfig], tmp_path: Path
) -> None:
    module = serve(datasets, tmp_path, levels=("HF", "CCSD", "PBE"))
    assert module.graphs("first", "train")[0].level_index.item() == 2
    with pytest.raises(InputError, match="data 'second': level of theory 'HF' is unknown to the model; it knows: PBE"):
        serve(datasets, tmp_path, levels=("PBE",))


def test_isolated_atoms_are_collected_by_level_and_must_agree(tmp_path: Path) -> None:
    path = write_molecules(tmp_path / "a.xyz", 30, forces=True)

    def stated(energy: float) -> DatasetConfig:
        return dataset(path, forces=True, isolated_atoms={"values": {"C": energy}, "unit": "eV"})

    assert serve({"a": stated(-1.0), "b": stated(-1.0)}, tmp_path).isolated_atoms == {"PBE": {6: -1.0}}
    with pytest.raises(InputError, match=r"data 'b': isolated atom of element 6 has -1\.5 eV"):
        _ = serve({"a": stated(-1.0), "b": stated(-1.5)}, tmp_path).isolated_atoms
