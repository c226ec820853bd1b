"""How fast random structures are read, beside ASE's database, and what opening ten million costs.

    python benchmarks/store_scale.py read --structures 100000
    python benchmarks/store_scale.py open --structures 10000000 --folder stores/ten_million

Rates are of CPU seconds (user and system) of one process on one thread, so that a busy machine changes them little; the
wall time of opening is given beside. `open` makes a store of shards that are copies of one (their files are written,
not linked), opens it in a process of its own and deletes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from foundation.data.store import Store

if TYPE_CHECKING:
    from foundation.data.readers import Record

ATOMS = 25


def records(count: int, atoms: int) -> Iterator[Record]:
    """Loose clusters with energies and forces."""
    from foundation.data.readers import Record  # here: `opened` measures what a process takes that only reads

    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(3), range(3), range(3)), axis=-1).reshape(-1, 3)[:atoms] * 1.7
    for number in range(count):
        yield Record(
            positions=grid + random.normal(scale=0.1, size=(atoms, 3)),
            atomic_numbers=np.resize([6, 1, 8], atoms),
            cell=None,
            pbc=(False, False, False),
            total_charge=0.0,
            spin_multiplicity=1,
            targets={"energy": np.array(float(number)), "forces": random.normal(size=(atoms, 3))},
            group="",
            split=None,
            smiles=None,
            where=f"frame {number}",
        )


def per_second(read: Callable[[int], object], order: list[int]) -> float:
    """Structures read in a CPU second."""
    start = time.process_time()
    for row in order:
        read(row)
    return len(order) / (time.process_time() - start)


def compare_reading(count: int, folder: Path) -> None:
    """Our store and ASE's, the same structures in the same random order, taken by turns."""
    import ase.db
    import torch
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    store = Store.create(folder / "store", records(count, ATOMS), level_of_theory="none", metadata={})
    database = ase.db.connect(str(folder / "ase.db"))
    in_ase = min(count, 20_000)
    with database:  # pyright: ignore[reportGeneralTypeIssues]
        for record in records(in_ase, ATOMS):
            atoms = Atoms(record.atomic_numbers, positions=record.positions)
            atoms.calc = SinglePointCalculator(
                atoms, energy=float(record.targets["energy"]), forces=record.targets["forces"]
            )
            database.write(atoms)

    def tensors_of_row(row: int) -> tuple[torch.Tensor, ...]:
        entry = database.get(id=row + 1)
        values = (entry.positions, entry.numbers, entry.forces)
        return (*(torch.from_numpy(np.array(value)) for value in values), torch.tensor(entry.energy))

    random = np.random.default_rng(1)
    figures: dict[str, list[float]] = {"store: tensors": [], "store: graphs": [], "ASE sqlite: tensors": []}
    for _ in range(3):
        order = random.permutation(count).tolist()
        figures["store: tensors"].append(per_second(store.tensors, order))
        figures["store: graphs"].append(per_second(store.graph, order))
        figures["ASE sqlite: tensors"].append(per_second(tensors_of_row, random.permutation(in_ase)[:3000].tolist()))
    for name, values in figures.items():
        print(f"{name:22s} {np.median(values):10.0f} structures/s (of {', '.join(f'{value:.0f}' for value in values)})")
    size = sum(file.stat().st_size for file in store.path.iterdir())
    print(f"store {size / count:.0f} bytes/structure; ASE {(folder / 'ase.db').stat().st_size / in_ase:.0f}")


def make_large(count: int, atoms: int, folder: Path) -> None:
    """A store of copies of one shard."""
    from foundation.data.store_parts import CHUNK_FRAMES
    from foundation.data.store_writer import PendingShard, write_metadata

    folder.mkdir(parents=True)
    pending = PendingShard()
    for record in records(min(count, CHUNK_FRAMES), atoms):
        pending.add(record)
    first = pending.write(folder, "00000-000000")
    shards = [first]
    for number in range(1, count // CHUNK_FRAMES):
        entries = []
        for entry in (first.structures, first.index):
            name = entry.file.replace("-000000", f"-{number:06d}")
            shutil.copyfile(folder / entry.file, folder / name)
            entries.append(dataclasses.replace(entry, file=name))
        shards.append(dataclasses.replace(first, structures=entries[0], index=entries[1]))
    write_metadata(folder, shards, level_of_theory="none", metadata={})


def memory() -> tuple[int, int]:
    """MiB of this process's own, and of mapped files, which the system takes back when it needs them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) // 1024, int(lines["RssFile"].split()[0]) // 1024


def open_large(folder: Path) -> None:
    """What opening costs; in a process of its own."""

    def show(what: str) -> None:
        own, mapped = memory()
        print(f"{what:60s} memory: own {own} MiB, mapped files {mapped} MiB")

    show("imports")
    start, started = time.perf_counter(), time.process_time()
    store = Store.open(folder)
    opened, worked = time.perf_counter() - start, time.process_time() - started
    show(f"{len(store)} structures opened in {opened:.2f} s ({worked:.2f} of CPU)")
    for number, count in enumerate((20_000, 100_000)):
        order = np.random.default_rng(number).integers(len(store), size=count).tolist()
        show(f"{count} random structures: {per_second(store.tensors, order):.0f} a CPU second")
    start = time.perf_counter()
    total = int(store.num_atoms.sum())
    show(f"atoms of all structures, {total}: {time.perf_counter() - start:.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("read", "open", "opened"))
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--atoms", type=int, default=ATOMS, help="open: atoms of a structure")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "foundation_store_scale")
    arguments = parser.parse_args()
    if arguments.what == "opened":
        open_large(arguments.folder)
        return
    try:
        if arguments.what == "read":
            arguments.folder.mkdir(parents=True)
            compare_reading(arguments.structures, arguments.folder)
        else:
            make_large(arguments.structures, arguments.atoms, arguments.folder)
            size = sum(file.stat().st_size for file in arguments.folder.iterdir())
            print(f"{size / 1e9:.1f} GB")
            command = [sys.executable, __file__, "opened", "--folder", str(arguments.folder)]
            subprocess.run(command, check=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
