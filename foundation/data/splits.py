"""Splits into training, validation and test: at random, by group, composition or scaffold, or as given.

Groups, compositions and scaffolds are placed by a hash of their name and the seed, so that one molecule falls on the
same side in every data set that is split with the same seed and fractions: nothing leaks between tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from foundation.config import Config
from foundation.errors import InputError

__all__ = ["SPLITS", "SplitConfig", "split_indices"]

SPLITS = ("train", "val", "test")

Size = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]
"""A number of structures, or a fraction of them between 0 and 1."""


class SplitConfig(Config):
    """How structures are divided.

    Attributes:
        train: Number or fraction of structures; left out, all that the others leave.
        val: Number or fraction; left out, none (or all that the file gives as `val`).
        test: Number or fraction; left out, none (or all that the file gives as `test`).
        seed: Decides the draw.
        by: What stays together: each structure alone (`random`), its group, its composition, its scaffold; or
            `given`: as the files say, `val` and `test` being drawn from the training part where the files give none.
            Left out: `given` where the files divide the data, else `random`.
        order: `shuffled`, or `file`: with `by: given`, the first `train` structures of the training part are trained on
            and the next ones validated (and tested) on, as papers with small training sets define theirs.
        folds: Cross-validation: divide into this many parts and test on part `fold`; val is drawn from the rest.
        fold: From 0 to folds - 1.
    """

    train: Size | None = None
    val: Size | None = None
    test: Size | None = None
    seed: int = 0
    by: Literal["random", "group", "composition", "scaffold", "given"] | None = None
    order: Literal["shuffled", "file"] = "shuffled"
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if (self.folds is None) != (self.fold is None):
            raise InputError("folds and fold belong together; give both or neither")
        if self.folds is not None and self.fold is not None:
            if self.fold >= self.folds:
                raise InputError(f"fold {self.fold}; allowed: 0 to {self.folds - 1}")
            if self.test is not None:
                raise InputError("test and folds exclude each other: the fold is the test set")
            if self.by == "given":
                raise InputError("by: given has no folds; allowed with folds: random, group, composition, scaffold")
        if self.order == "file" and self.by != "given":
            raise InputError(f"order: file goes with by: given only; got by: {self.by or 'nothing'}")
        fractions = [size for size in (self.train, self.val, self.test) if isinstance(size, float)]
        if sum(fractions) > 1.0 + 1e-9:
            raise InputError(f"fractions add up to {sum(fractions):g}; allowed: at most 1")
        return self


def split_indices(
    config: SplitConfig,
    *,
    num: int,
    groups: Sequence[str],
    formulas: Sequence[str],
    smiles: Sequence[str | None],
    given: Sequence[str | None],
    where: str = "split",
) -> dict[str, Int[np.ndarray, " structures"]]:
    """Divide structures.

    Args:
        config: What is asked for.
        num: Number of structures.
        groups: Name of each structure's group, "" where it has none.
        formulas: Composition of each structure.
        smiles: SMILES of each structure, None where it has none.
        given: Split that the files give each structure, None where they do not.
        where: What to call this in errors, usually the data set.

    Returns:
        Indices for `train`, and for `val` and `test` where there are any, each ascending.

    Raises:
        InputError: A part that was asked for is empty or there are too few structures; a group, scaffold or given split
            is missing.
    """
    if num == 0:
        raise InputError(f"{where}: there are no structures to split")
    by = config.by or ("given" if any(given) else "random")
    if by == "given":
        parts = _given(config, given, where)
    else:
        names = _unit_names(by, num, groups, formulas, smiles, where)
        parts = _drawn(config, names, by, where)
    result = {name: np.sort(np.asarray(parts[name], dtype=np.int64)) for name in SPLITS if len(parts.get(name, ()))}
    _check_parts(config, result, by, num, where)
    return result


def _unit_names(
    by: str,
    num: int,
    groups: Sequence[str],
    formulas: Sequence[str],
    smiles: Sequence[str | None],
    where: str,
) -> list[str]:
    """Name of what stays together, for each structure."""
    if by == "random":
        return [str(index) for index in range(num)]
    if by == "composition":
        return list(formulas)
    if by == "group":
        if not all(groups):
            first = list(groups).index("")
            raise InputError(f"{where}: by: group, but structure {first} has no group; state `group:` in the card")
        return list(groups)
    missing = [index for index, text in enumerate(smiles) if not text]
    if missing:
        raise InputError(
            f"{where}: by: scaffold, but structure {missing[0]} has no SMILES; allowed: {_allowed('scaffold')}"
        )
    return [_scaffold(text, where) for text in smiles if text is not None]


def _allowed(without: str) -> str:
    return ", ".join(by for by in ("random", "group", "composition", "scaffold", "given") if by != without)


def _scaffold(smiles: str, where: str) -> str:
    """Bemis–Murcko scaffold; a molecule without rings is its own scaffold (flat SMILES)."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise InputError(f"{where}: SMILES '{smiles}' cannot be parsed")
    Chem.RemoveStereochemistry(mol)
    scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
    return scaffold or Chem.MolToSmiles(Chem.RemoveHs(mol))


def _drawn(config: SplitConfig, names: list[str], by: str, where: str) -> dict[str, list[int]]:
    """Place units by hash: numbers fill up in its order, fractions are intervals of it (exact for random)."""
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    place = {name: _uniform(f"{config.seed}:{name}") for name in members}
    remaining = sorted(members, key=lambda name: (place[name], name))
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    if config.folds is not None:
        test = {name for name in remaining if int(_uniform(f"fold:{config.seed}:{name}") * config.folds) == config.fold}
        parts["test"] = [index for name in test for index in members[name]]
        remaining = [name for name in remaining if name not in test]
    total, bound = sum(len(members[name]) for name in remaining), 0.0
    for part in ("test", "val", "train"):
        size = getattr(config, part)
        if size is None:
            continue
        if isinstance(size, float) and by != "random":
            bound += size
            chosen = [name for name in remaining if place[name] < bound]
        else:
            chosen = _fill(remaining, members, round(size * total) if isinstance(size, float) else size)
        parts[part] = [index for name in chosen for index in members[name]]
        remaining = remaining[len(chosen) :]
    if config.train is None:
        parts["train"] = [index for name in remaining for index in members[name]]
    sizes = {part: getattr(config, part) for part in SPLITS}
    if by == "random" and any(isinstance(size, int) and len(parts[part]) < size for part, size in sizes.items()):
        counts = {
            part: round(size * total) if isinstance(size, float) else size
            for part, size in sizes.items()
            if size is not None
        }
        asked = " + ".join(f"{part} {count}" for part, count in counts.items())
        there = f"there are {total} in the data" if config.folds is None else f"the other folds have {total}"
        raise InputError(f"{where}: {asked} = {sum(counts.values())} structures asked for; {there}")
    return parts


def _fill(order: list[str], members: dict[str, list[int]], wanted: int) -> list[str]:
    """The first units in hash order that together hold at most `wanted` structures, but at least one unit."""
    chosen: list[str] = []
    count = 0
    for name in order:
        count += len(members[name])
        if wanted == 0 or (chosen and count > wanted):
            break
        chosen.append(name)
    return chosen


def _given(config: SplitConfig, given: Sequence[str | None], where: str) -> dict[str, list[int]]:
    pools: dict[str, list[int]] = {part: [] for part in SPLITS}
    for index, part in enumerate(given):
        if part not in pools:
            raise InputError(f"{where}: structure {index} has the given split {part!r}; allowed: {', '.join(SPLITS)}")
        pools[part].append(index)
    if config.order == "file":
        return _in_file_order(config, pools, where)
    random = np.random.default_rng(config.seed)
    train = [pools["train"][index] for index in random.permutation(len(pools["train"]))]
    parts: dict[str, list[int]] = {}
    for part in ("test", "val"):
        size = getattr(config, part)
        if pools[part]:
            parts[part] = _first(pools[part], size, random, part, where)
        elif size is not None:
            count = round(size * len(pools["train"])) if isinstance(size, float) else size
            parts[part] = _first(train, count, None, part, where)
            train = train[count:]
    parts["train"] = _first(train, config.train, None, "train", where)
    return parts


def _in_file_order(config: SplitConfig, pools: dict[str, list[int]], where: str) -> dict[str, list[int]]:
    """Training structures first, then validation, then test, each as the files have them."""
    parts: dict[str, list[int]] = {}
    rest = pools["train"]
    for part in SPLITS:
        size = getattr(config, part)
        if part != "train" and pools[part]:
            parts[part] = _first(pools[part], size, None, part, where)
        elif size is not None:
            parts[part] = _first(rest, size, None, part, where)
            rest = rest[len(parts[part]) :]
    parts.setdefault("train", rest)
    return parts


def _first(
    pool: list[int], size: int | float | None, random: np.random.Generator | None, part: str, where: str
) -> list[int]:
    if size is None:
        return pool
    count = round(size * len(pool)) if isinstance(size, float) else int(size)
    if count > len(pool):
        raise InputError(f"{where}: {part}: {count} structures asked for, the given split leaves {len(pool)}")
    order = range(len(pool)) if random is None else random.permutation(len(pool))
    return [pool[index] for index in order][:count]


def _check_parts(config: SplitConfig, parts: dict[str, np.ndarray], by: str, num: int, where: str) -> None:
    asked = {part: getattr(config, part) for part in SPLITS}
    empty = [part for part in SPLITS if part not in parts and asked[part] not in (None, 0)]
    if config.folds is not None and "test" not in parts:
        empty.append("test")
    if "train" not in parts and asked["train"] != 0 and "train" not in empty and by != "given":
        empty.append("train")
    if empty:
        raise InputError(
            f"{where}: {' and '.join(empty)} would be empty (by: {by}, {num} structures, asked for "
            f"{ {part: size for part, size in asked.items() if size is not None} })"
        )


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
