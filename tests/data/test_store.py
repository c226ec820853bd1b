"""The store gives back exactly what was put in, as views of the mapped files."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from foundation.data.graph import FIELDS, build_graph
from foundation.data.readers import Record
from foundation.data.store import Store
from foundation.data.store_writer import hill_formula, write_store
from foundation.errors import InputError

FINITE = st.floats(-1e6, 1e6)


def record(**changes: object) -> Record:
    facts: dict[str, object] = {
        "positions": np.array([[0.0, 0.0, 0.0], [0.0, 0.76, 0.59], [0.0, -0.76, 0.59]]),
        "atomic_numbers": np.array([8, 1, 1]),
        "cell": None,
        "pbc": (False, False, False),
        "total_charge": 0.0,
        "spin_multiplicity": 1,
        "targets": {"energy": np.array(-2043.5), "forces": np.full((3, 3), 0.25)},
        "group": "water",
        "split": None,
        "smiles": "O",
        "where": "water.xyz frame 0",
    }
    return Record(**(facts | changes))  # type: ignore[arg-type]


VARIED = [
    record(),
    record(targets={}, smiles=None, split="test", group="", where="water.xyz frame 1"),
    record(total_charge=-1.0, spin_multiplicity=2, targets={"dipole": np.array([1.0, -2.0, 0.5])}),
    record(
        cell=np.array([[3.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 20.0]]),
        pbc=(True, True, False),
        targets={"stress": np.arange(9.0).reshape(3, 3), "partial_charges": np.array([-0.8, np.nan, 0.4])},
    ),
    record(atomic_numbers=np.array([79]), positions=np.array([[1.0, 2.0, 3.0]]), targets={"energy": np.array(0.0)}),
]


def create(path: Path, records: list[Record], *, shard_bytes: int = 1 << 26) -> Store:
    write_store(path, records, level_of_theory="PBE", metadata={"licence": "CC0"}, shard_bytes=shard_bytes)
    return Store.open(path)


def assert_same(store: Store, index: int, source: Record) -> None:
    graph = store.graph(index, level_index=2, dataset_index=3)
    expected = build_graph(
        positions=source.positions,
        atomic_numbers=source.atomic_numbers,
        total_charge=source.total_charge,
        spin_multiplicity=source.spin_multiplicity,
        cell=source.cell,
        pbc=source.pbc,
        targets=source.targets,
        level_index=2,
        dataset_index=3,
        structure_index=index,
    )
    for name in [*FIELDS, "graph_index", "num_atoms_per_graph"]:
        if FIELDS.get(name) and (FIELDS[name].level == "edge" or FIELDS[name].optional):
            continue
        got, wanted = graph[name], expected[name]
        assert got.dtype == wanted.dtype, name
        assert torch.equal(got, wanted), name
    assert graph.num_graphs == 1
    assert graph.targets.keys() == graph.masks.keys() == expected.targets.keys()
    for name in expected.targets:
        assert torch.equal(graph.targets[name], expected.targets[name]), name
        assert torch.equal(graph.masks[name], expected.masks[name]), name


@pytest.mark.parametrize("shard_bytes", [1, 400, 1 << 26])
def test_structures_come_back_exactly_whatever_the_shards(tmp_path: Path, shard_bytes: int) -> None:
    store = create(tmp_path / "store", VARIED, shard_bytes=shard_bytes)
    assert len(store) == len(VARIED)
    for index in (3, 0, 4, 1, 2):
        assert_same(store, index, VARIED[index])
    assert len(list((tmp_path / "store").glob("structures-*.arrow"))) == {1: 5, 400: 3, 1 << 26: 1}[shard_bytes]


@st.composite
def random_records(draw: st.DrawFn) -> Record:
    num_atoms = draw(st.integers(1, 4))
    shift = draw(npst.arrays(np.float64, (num_atoms, 3), elements=st.floats(-0.4, 0.4)))
    targets = {
        name: draw(npst.arrays(np.float64, shape, elements=FINITE))
        for name, shape in {"energy": (), "forces": (num_atoms, 3), "polarizability": (3, 3)}.items()
        if draw(st.booleans())
    }
    return record(
        positions=shift + 2.0 * np.arange(num_atoms)[:, None],
        atomic_numbers=draw(npst.arrays(np.int64, num_atoms, elements=st.integers(1, 118))),
        total_charge=draw(FINITE),
        spin_multiplicity=draw(st.integers(1, 9)),
        cell=draw(st.none() | st.just(np.diag([9.0, 10.0, 11.0]))),
        targets=targets,
        smiles=draw(st.none() | st.text(max_size=5)),
        where=draw(st.text(min_size=1, max_size=5)),
    )


@settings(max_examples=15)
@given(records=st.lists(random_records(), min_size=1, max_size=6), shard_bytes=st.sampled_from([1, 500, 1 << 26]))
def test_any_records_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], shard_bytes: int
) -> None:
    store = create(tmp_path_factory.mktemp("any") / "store", records, shard_bytes=shard_bytes)
    for index, source in enumerate(records):
        assert_same(store, index, source)
    assert store.smiles == [source.smiles for source in records]
    assert store.names == [source.where for source in records]


def test_the_index_knows_what_splits_and_batches_need(tmp_path: Path) -> None:
    store = create(tmp_path / "store", VARIED)
    assert store.num_atoms.tolist() == [3, 3, 3, 3, 1]
    assert store.groups == ["water", "", "water", "water", "water"]
    assert store.given_splits == [None, "test", None, None, None]
    assert store.smiles == ["O", None, "O", "O", "O"]
    assert store.formulas == ["H2O", "H2O", "H2O", "H2O", "Au"]
    assert store.elements == (1, 8, 79)
    assert store.level_of_theory == "PBE"
    assert store.metadata == {"licence": "CC0"}
    assert store.properties == ("energy", "forces", "stress", "dipole", "partial_charges")
    assert store.label_counts["energy"].tolist() == [1, 0, 0, 0, 1]
    assert store.label_counts["forces"].tolist() == [3, 0, 0, 0, 0]
    assert store.label_counts["partial_charges"].tolist() == [0, 0, 0, 2, 0]


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    store = create(tmp_path / "store", [record() for _ in range(3)])
    first, second = store.arrays(0)["positions"], store.arrays(1)["positions"]
    assert not first.flags.writeable
    assert not first.flags.owndata
    address = [array.__array_interface__["data"][0] for array in (first, second)]
    assert address[1] - address[0] == first.nbytes, "neighbouring structures are neighbours in one buffer"


def test_changing_a_graph_does_not_change_the_store(tmp_path: Path) -> None:
    store = create(tmp_path / "store", [record()])
    graph = store.graph(0)
    graph.positions += 1.0
    graph.targets["forces"] += 1.0
    assert_same(store, 0, record())


def test_shards_are_ordinary_files_of_hugging_face_datasets(tmp_path: Path) -> None:
    create(tmp_path / "store", VARIED)
    opened = datasets.Dataset.from_file(str(tmp_path / "store" / "structures-00000.arrow"))
    assert opened.num_rows == len(VARIED)
    assert opened[2]["target.dipole"] == [1.0, -2.0, 0.5]


def test_counted_edges_are_kept_with_the_store(tmp_path: Path) -> None:
    store = create(tmp_path / "store", VARIED)
    assert (store.load_neighbor_counts(5.0) == -1).all()
    store.save_neighbor_counts(5.0, np.arange(10, dtype=np.int32).reshape(5, 2))
    assert Store.open(store.path).load_neighbor_counts(5.0)[:, 1].tolist() == [1, 3, 5, 7, 9]
    assert (store.load_neighbor_counts(4.0) == -1).all(), "another cutoff has other edges"
    (tmp_path / "store" / "neighbors-5.0.npy").write_bytes(b"nonsense")
    assert (store.load_neighbor_counts(5.0) == -1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.full((3, 3), np.nan)}, "bad.xyz frame 7: positions hold NaN"),
        ({"positions": np.array([[0.0, 0, 0], [0, 0, 0.01], [3, 0, 0]])}, "bad.xyz frame 7: atoms 0 and 1 are on top"),
        ({"targets": {"energy": np.array(np.inf)}}, "bad.xyz frame 7: label 'energy' holds NaN or infinite"),
        ({"pbc": (True, True, True), "cell": np.zeros((3, 3))}, "bad.xyz frame 7: the cell has no volume"),
    ],
)
def test_an_invalid_structure_is_named_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create(tmp_path / "store", [record(), record(where="bad.xyz frame 7", **changes)])
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_structures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no structures"):
        create(tmp_path / "store", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "formula"), [([6, 6, 1, 8], "C2HO"), ([8, 1, 1], "H2O"), ([17, 11], "ClNa"), ([6, 79, 6], "C2Au")]
)
def test_hill_formula(numbers: list[int], formula: str) -> None:
    assert hill_formula(np.array(numbers)) == formula
