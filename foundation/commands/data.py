"""`foundation data list | show CARD | prepare CARD | check CARD | generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.errors import InputError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


NO_TERMINAL = 10_000
"""Columns where the output goes to a file or another program, which lines need not fit."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("data", help="list, show, check, prepare and generate data sets", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="name, size and labels of the data cards that ship; `show` has the rest", allow_abbrev=False
    )
    listing.set_defaults(run=run_list)
    for name, function, text in (
        ("show", run_show, "what a card says: origin, licence, units, splits, caveats"),
        ("prepare", run_prepare, "convert a card's file into the cache and check it"),
        ("check", run_check, "read a card's whole file and report what is in it; writes nothing"),
    ):
        action = actions.add_parser(name, help=text, allow_abbrev=False)
        action.add_argument("card", metavar="CARD", help="a card's name, or a YAML file")
        action.set_defaults(run=function)
        if function is run_prepare:
            _add_prepare_options(action)
    generate = actions.add_parser("generate", help="make labelled molecules with GFN2-xTB", allow_abbrev=False)
    generate.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the files go")
    generate.add_argument("--geometries", type=int, metavar="N", help="labelled geometries (default: as shipped)")
    generate.add_argument(
        "--handedness", type=int, metavar="N", help="molecules with only R or S (default: as shipped)"
    )
    generate.add_argument("--seed", type=int, metavar="N", help="default: that of the shipped files")
    generate.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    generate.set_defaults(run=run_generate)


def _add_prepare_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core for a large source)")
    action.add_argument("--shard", type=int, metavar="I", help="make part I, from 0, of the store only")
    action.add_argument("--of", type=int, metavar="N", help="how many parts there are")
    action.add_argument(
        "--merge",
        action="store_true",
        help="make the store of parts that are all there; without it what is missing is made",
    )


def run_list(_: argparse.Namespace) -> None:
    """Print each shipped card's name, size and labels, a line each that fits the terminal."""
    import shutil

    from foundation.config import load_yaml
    from foundation.resources import data_cards_dir

    root = data_cards_dir()
    rows = []
    for path in sorted(root.rglob("*.yaml")):
        card = load_yaml(path)
        labels = " ".join(card.get("properties") or {}) or "no labels"
        name = path.relative_to(root).with_suffix("").as_posix()
        rows.append((name, str(card.get("num_structures", "?")), labels))
    widest_name, widest_count = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    room = shutil.get_terminal_size(fallback=(NO_TERMINAL, 0)).columns
    for name, count, labels in rows:
        line = f"{name.ljust(widest_name)}  {count.rjust(widest_count)}  {labels}"
        print(line if len(line) <= room else f"{line[: room - 1]}…")


def run_show(options: argparse.Namespace) -> None:
    """Print a card whole."""
    from foundation.config import dump_yaml
    from foundation.data.card import load_card

    print(dump_yaml(load_card(options.card).model_dump(mode="json", exclude_unset=True, by_alias=True)), end="")


def run_prepare(options: argparse.Namespace) -> None:
    """Convert a card's files into a store in the cache, or a part of it, and verify every part.

    Raises:
        InputError: Options that contradict each other; what preparing finds.
    """
    from rich.console import Console

    from foundation.data.card import DatasetConfig, resolve
    from foundation.data.prepare import default_workers, merge, prepare, prepare_shard
    from foundation.data.progress import shown_progress

    problems = []
    if (options.shard is None) != (options.of is None):
        problems.append("--shard and --of go together: part I of N, counted from 0")
    if options.shard is not None and options.merge:
        problems.append("--shard and --merge exclude each other: merge when all parts are there")
    if options.workers is not None and options.workers < 1:
        problems.append(f"--workers {options.workers}; allowed: 1 or more")
    if options.of is not None and options.of < 1:
        problems.append(f"--of {options.of}; allowed: 1 or more")
    if problems:
        raise InputError(problems)
    dataset = resolve(DatasetConfig(card=options.card))  # five facts are enough; how many structures need not be one
    with shown_progress(f"preparing {options.card}", total=None, console=Console(stderr=True)) as advance:
        workers = options.workers or default_workers(dataset)
        if options.shard is not None and options.of is not None:
            done = prepare_shard(dataset, shard=options.shard, of=options.of, workers=workers, on_record=advance)
            state = "is there" if done is None else f"is not needed: the store is complete, in {done}"
            print(f"part {options.shard} of {options.of} {state}")
            return
        store = merge(dataset) if options.merge else prepare(dataset, workers=workers, on_record=advance)
    store.verify()
    print(f"{len(store)} structures, verified, in {store.path}")


def run_check(options: argparse.Namespace) -> None:
    """Read the whole file, validate every structure, and compare with what the card says.

    Raises:
        InputError: The file is not what the card says.
    """
    from collections import Counter

    from ase.data import chemical_symbols
    from rich.console import Console

    from foundation.data.card import DatasetConfig, load_card, resolve
    from foundation.data.progress import shown_progress
    from foundation.data.readers import read_records
    from foundation.wording import counted

    card = load_card(options.card)
    elements: set[str] = set()
    labels: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    groups: set[str] = set()
    with shown_progress(f"reading {options.card}", total=card.num_structures, console=Console(stderr=True)) as advance:
        for record in read_records(resolve(DatasetConfig(card=options.card))):
            graph = record.graph()
            elements.update(chemical_symbols[number] for number in record.atomic_numbers)
            labels.update({name: int(mask.sum()) for name, mask in graph.masks.items()})
            splits[record.split or "not given"] += 1
            groups.add(record.group)
            advance()
    total = sum(splits.values())
    print(f"{counted(total, 'structure')}; elements {' '.join(sorted(elements))}; {counted(len(groups), 'group')}")
    print("splits: " + ", ".join(f"{name} {count}" for name, count in sorted(splits.items())))
    print("labels: " + (", ".join(f"{name} {count}" for name, count in sorted(labels.items())) or "none"))
    problems = []
    if total != card.num_structures:
        problems.append(
            f"card '{options.card}': num_structures: the card says {card.num_structures}, the file holds {total}"
        )
    if elements != set(card.elements):
        problems.append(
            f"card '{options.card}': elements: {sorted(card.elements)} on the card, {sorted(elements)} in the file"
        )
    if problems:
        raise InputError(problems)
    print("the file is as the card says")


def run_generate(options: argparse.Namespace) -> None:
    """Make the embedded data set, or a larger one."""
    from rich.console import Console

    from foundation.data.generate.generate import SHIPPED_NUM_GEOMETRIES, SHIPPED_NUM_HANDEDNESS, SHIPPED_SEED, generate
    from foundation.threads import available_cores

    generate(
        options.out,
        num_geometries=SHIPPED_NUM_GEOMETRIES if options.geometries is None else options.geometries,
        num_handedness=SHIPPED_NUM_HANDEDNESS if options.handedness is None else options.handedness,
        seed=SHIPPED_SEED if options.seed is None else options.seed,
        workers=available_cores() if options.workers is None else options.workers,
        console=Console(),
    )
