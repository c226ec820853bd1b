"""Splits: sizes, leakage, determinism, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from foundation.config import validate
from foundation.data.splits import SplitConfig, split_indices
from foundation.errors import InputError


def split(
    config: dict[str, Any],
    num: int,
    *,
    groups: list[str] | None = None,
    formulas: list[str] | None = None,
    smiles: list[str | None] | None = None,
    given: list[str | None] | None = None,
) -> dict[str, np.ndarray]:
    return split_indices(
        validate(SplitConfig, config, where="split"),
        num=num,
        groups=groups or [""] * num,
        formulas=formulas or ["H2"] * num,
        smiles=smiles or [None] * num,
        given=given or [None] * num,
    )


def sizes(parts: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: len(part) for name, part in parts.items()}


def test_numbers_and_fractions_are_exact_for_a_random_split():
    assert sizes(split({"train": 900, "val": 50, "test": 50, "seed": 0}, 1000)) == {"train": 900, "val": 50, "test": 50}
    assert sizes(split({"val": 0.1, "test": 0.2, "seed": 0}, 1000)) == {"train": 700, "val": 100, "test": 200}
    assert sizes(split({"train": 30, "val": 10}, 100)) == {"train": 30, "val": 10}
    assert sizes(split({"train": 0, "test": 50}, 50)) == {"test": 50}


@examples(seed=st.integers(0, 5), num=st.integers(20, 60), units=st.integers(5, 12))
def test_no_structure_is_in_two_parts_and_no_group_is_torn(seed: int, num: int, units: int):
    groups = [f"g{index % units}" for index in range(num)]
    try:
        parts = split({"by": "group", "val": 0.3, "test": 0.3, "seed": seed}, num, groups=groups)
    except InputError:
        return  # few groups: a part may stay empty, which is refused
    indices = np.concatenate(list(parts.values()))
    assert sorted(indices.tolist()) == list(range(num))
    places = [{groups[index] for index in part} for part in parts.values()]
    assert sum(len(place) for place in places) == units


def test_the_seed_decides_the_split():
    first, same, other = (split({"val": 0.5, "seed": seed}, 100)["val"].tolist() for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_a_molecule_is_on_the_same_side_in_every_data_set():
    config = {"by": "group", "val": 0.2, "test": 0.2, "seed": 3}
    names = [f"molecule{index}" for index in range(300)]
    subset = names[::3]
    side = {names[i]: part for part, indices in split(config, 300, groups=names).items() for i in indices}
    for part, indices in split(config, len(subset), groups=subset).items():
        assert {side[subset[index]] for index in indices} == {part}


def test_folds_cover_every_group_once():
    groups = [f"g{index // 2}" for index in range(200)]
    tests = [split({"by": "group", "folds": 5, "fold": fold, "val": 0.1}, 200, groups=groups) for fold in range(5)]
    held_out = np.concatenate([parts["test"] for parts in tests])
    assert sorted(held_out.tolist()) == list(range(200))
    assert all(set(parts) == {"train", "val", "test"} for parts in tests)


def test_compositions_and_scaffolds_stay_together():
    formulas = [f"C{index % 20}" for index in range(100)]
    parts = split({"by": "composition", "val": 20, "test": 20}, 100, formulas=formulas)
    assert not {formulas[i] for i in parts["train"]} & {formulas[i] for i in parts["test"]}
    toluene_like: list[str | None] = [f"c1ccccc1{'C' * (index + 1)}" for index in range(10)]
    chains: list[str | None] = ["C" * (index + 2) for index in range(10)]
    parts = split({"by": "scaffold", "val": 0.3, "seed": 1}, 20, smiles=toluene_like + chains)
    sides = [part for part, indices in parts.items() if set(indices.tolist()) & set(range(10))]
    assert len(sides) == 1


def test_a_given_split_is_kept_and_validation_is_drawn_from_its_training_part():
    given: list[str | None] = ["train"] * 100 + ["test"] * 50
    parts = split({"val": 10, "seed": 0}, 150, given=given)
    assert sizes(parts) == {"train": 90, "val": 10, "test": 50}
    assert parts["test"].tolist() == list(range(100, 150))
    assert sizes(split({"by": "given", "train": 50, "val": 50}, 150, given=given)) == {
        "train": 50,
        "val": 50,
        "test": 50,
    }
    assert sizes(split({"by": "given", "test": 5}, 150, given=given)) == {"train": 100, "test": 5}


def test_file_order_takes_the_first_training_structures_and_validates_on_the_next():
    given: list[str | None] = ["test"] * 5 + ["train"] * 100
    parts = split({"by": "given", "order": "file", "train": 50, "val": 10}, 105, given=given)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": list(range(5, 55)),
        "val": list(range(55, 65)),
        "test": list(range(5)),
    }
    with pytest.raises(ValueError, match="order: file goes with by: given only; got by: random"):
        SplitConfig.model_validate({"by": "random", "order": "file", "train": 50})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": 900, "val": 200}, r"train 900 \+ val 200 = 1100 structures asked for; there are 1000 in the data"),
        ({"val": 900, "test": 0.2}, r"val 900 \+ test 200 = 1100 structures asked for; there are 1000"),
        ({"train": 900, "folds": 2, "fold": 0}, r"train 900 = 900 structures asked for; the other folds have \d{3}$"),
        ({"val": 0.0001}, "val would be empty"),
        ({"val": 1000}, "train would be empty"),
        ({"by": "group", "val": 0.1}, "structure 0 has no group"),
        ({"by": "scaffold", "val": 0.1}, "structure 0 has no SMILES"),
        ({"by": "given"}, "given split None"),
        ({"train": 0.9, "val": 0.2}, "fractions add up to 1.1"),
        ({"folds": 5}, "folds and fold belong together"),
        ({"folds": 5, "fold": 5}, "fold 5; allowed: 0 to 4"),
        ({"folds": 5, "fold": 0, "test": 0.1}, "exclude each other"),
        ({"train": 1.5}, "train"),
        ({"train": True}, "train"),
    ],
)
def test_impossible_splits_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        split(config, 1000)
