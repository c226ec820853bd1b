"""Preparing 100,000 molecules, killed five times at random moments, beside preparing them undisturbed.

    python benchmarks/prepare_killed.py --structures 100000 --workers 2

The whole process group gets SIGKILL, as from a machine that goes down. Compares every file of the two stores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CARD = """source: {source}
level_of_theory: none
charge: 0
spin: 1
properties:
  energy: {{key: energy, unit: eV}}
  forces: {{key: forces, unit: eV/Å}}
"""


def write_source(path: Path, count: int) -> None:
    """Loose clusters of 24 atoms with energies and forces, as extended XYZ."""
    noise = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(range(3), range(3), range(3)), axis=-1).reshape(-1, 3)[:24] * 1.7
    symbols = np.resize(["C", "H", "O", "H"], 24)
    with path.open("w") as file:
        for number in range(count):
            rows = np.hstack([grid + noise.normal(scale=0.1, size=(24, 3)), noise.normal(size=(24, 3))])
            file.write(f'24\nProperties=species:S:1:pos:R:3:forces:R:3 energy={-number}.5 pbc="F F F"\n')
            lines = zip(symbols, rows.round(6).tolist(), strict=True)
            file.writelines(f"{symbol} {' '.join(map(str, row))}\n" for symbol, row in lines)


def checksums(cache: Path) -> dict[str, str]:
    """SHA-256 of every file of the only store of a cache."""
    (store,) = (cache / "stores").iterdir()
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(store.iterdir())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="foundation_prepare_"))
    try:
        run(folder, arguments)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Prepare undisturbed, then killed again and again."""
    write_source(folder / "molecules.xyz", arguments.structures)
    (folder / "card.yaml").write_text(CARD.format(source=folder / "molecules.xyz"), encoding="utf-8")
    command = [sys.executable, "-m", "foundation.cli", "data", "prepare", str(folder / "card.yaml")]
    command += ["--workers", str(arguments.workers)]

    def start(cache: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | {"FOUNDATION_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(folder / "undisturbed").wait() == 0
    whole = time.monotonic() - began
    print(f"undisturbed: {arguments.structures} structures in {whole:.0f} s", flush=True)
    draw = random.Random(arguments.seed)
    began, kills = time.monotonic(), 0
    while kills < arguments.kills:
        process = start(folder / "killed")
        moment = draw.uniform(0.05, 0.5) * whole
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            there = len(list((folder / "killed").glob("parts/*/entries/*-*.json")))
            print(f"killed after {moment:.0f} s; {there} chunks are there", flush=True)
    assert start(folder / "killed").wait() == 0
    print(f"killed {kills} times: done in {time.monotonic() - began:.0f} s, all attempts together")
    one, other = checksums(folder / "undisturbed"), checksums(folder / "killed")
    print(f"{len(one)} files; {'equal' if one == other else 'NOT EQUAL'}")
    assert one == other


if __name__ == "__main__":
    main()
