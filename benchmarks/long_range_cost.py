"""What long range costs: a training step of 8 aspirins, and energy and forces of boxes of water, with and without it.

    python benchmarks/long_range_cost.py --boxes 192 1536 12288

Both models take turns, so that whatever else the machine does meets both. Prints seconds of CPU, ratios, and exponents
with which costs grow from box to box. One thread.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable

import ase.io
import numpy as np
import torch

from foundation.config import validate
from foundation.data.card import data_root
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel, ModelConfig
from foundation.threads import tune_allocator

CUTOFF = 5.0
TILES = {192: (1, 1, 1), 384: (2, 1, 1), 768: (2, 2, 1), 1536: (2, 2, 2), 12288: (4, 4, 4)}
"""Copies of a box of 64 water molecules."""


def models(charges: str) -> dict[str, FoundationModel]:
    """Without and with electrostatics; the same weights otherwise."""
    made = {}
    for name, electrostatics in (("without", None), ("with", {"kind": "coulomb"})):
        torch.manual_seed(0)
        config = {
            "backbone": {"kind": "equivariant", "cutoff": CUTOFF, "channels": 32, "pseudo_channels": 8},
            "heads": {"energy": {"kind": "energy"}, "charges": {"kind": "charges", "model": {"kind": charges}}},
            "elements": [1, 6, 8],
            "levels": ["any"],
            "electrostatics": electrostatics,
        }
        if electrostatics is None:
            config["heads"]["charges"]["model"] = {"kind": "redistributed"}  # type: ignore[index]
        made[name] = FoundationModel(validate(ModelConfig, config, where="model"))
        made[name].scaling.reference_energies.zero_()
    return made


def seconds(work: dict[str, Callable[[], object]], *, repetitions: int) -> dict[str, float]:
    """Least CPU seconds of each, taken in turns."""
    best = dict.fromkeys(work, math.inf)
    for _ in range(repetitions):
        for name, run in work.items():
            gc.collect()
            begun = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begun)
    return best


def molecules() -> AtomGraph:
    """Eight aspirins with energies and forces to learn."""
    root = data_root()
    assert root is not None, "the data folder has to be there"
    archive = np.load(sorted((root / "rmd17").glob("*aspirin*.npz"))[0])
    graphs = [
        build_graph(
            positions=archive["train_coords"][row],
            atomic_numbers=archive["nuclear_charges"],
            total_charge=0,
            spin_multiplicity=1,
        )
        for row in range(8)
    ]
    return collate([with_neighbors(graph, CUTOFF) for graph in graphs])


def water(num_atoms: int) -> AtomGraph:
    """A box of liquid water."""
    root = data_root()
    assert root is not None, "the data folder has to be there"
    frame = ase.io.read(root / "water_bec_rpbe_d3" / "test-H2O_RPBE-D3_50.xyz.xz", index=0)
    assert isinstance(frame, ase.Atoms)
    frame = frame.repeat(TILES[num_atoms])
    graph = build_graph(
        positions=frame.positions,
        atomic_numbers=frame.numbers,
        total_charge=0,
        spin_multiplicity=1,
        cell=frame.cell.array,
        pbc=True,
    )
    return collate([with_neighbors(graph, CUTOFF)])


def training_step(model: FoundationModel, graph: AtomGraph) -> None:
    """Energy and forces, and the gradient of a loss of both by all weights."""
    model.zero_grad()
    found = model(graph, properties=("energy", "forces"), create_graph=True)
    (found["energy"].square().mean() + found["forces"].square().mean()).backward()


def energy_and_forces(model: FoundationModel, graph: AtomGraph) -> None:
    with torch.no_grad():
        model(graph, properties=("energy", "forces"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, nargs="+", choices=TILES, default=[192, 1536])
    parser.add_argument("--charges", choices=("redistributed", "qeq"), default="redistributed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    both = models(options.charges)
    batch = molecules()
    best = seconds(
        {name: lambda model=model: training_step(model, batch) for name, model in both.items()}, repetitions=25
    )
    sys.stdout.write(f"training step, 8 aspirins: {_both(best)}\n")
    for model in both.values():
        model.eval().requires_grad_(False)
    measured: dict[int, dict[str, float]] = {}
    for size in options.boxes:
        box = water(size)
        repetitions = 5 if size < 10_000 else 2
        measured[size] = seconds(
            {name: lambda model=model, box=box: energy_and_forces(model, box) for name, model in both.items()},
            repetitions=repetitions,
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(f"energy and forces, {size} atoms of water: {_both(measured[size])}, peak {peak:.1f} GiB\n")
    for small, large in itertools.pairwise(options.boxes):
        exponents = {
            name: math.log(measured[large][name] / measured[small][name]) / math.log(large / small) for name in both
        }
        added = {size: measured[size]["with"] - measured[size]["without"] for size in (small, large)}
        growth = (
            math.log(added[large] / added[small]) / math.log(large / small) if min(added.values()) > 0 else math.nan
        )
        sys.stdout.write(
            f"{small} to {large}: exponent {exponents['without']:.2f} without, {exponents['with']:.2f} with; "
            f"of what is added {growth:.2f}\n"
        )


def _both(best: dict[str, float]) -> str:
    return f"{best['without']:.4f} s without, {best['with']:.4f} s with: {best['with'] / best['without']:.2f} times"


if __name__ == "__main__":
    main()
