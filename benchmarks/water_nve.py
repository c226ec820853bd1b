"""Extensivity and energy conservation of a trained water model.

    foundation train tasks/water --out runs/water
    python benchmarks/water_nve.py runs/water ../shared/data/water_revpbe0/test_water.xyz.xz

Prints the relative difference of energies per molecule between a 192-atom box and its 2×2×2 supercell, then the drift
of the total energy in NVE dynamics (velocity Verlet, float64): the slope of a least-squares line over all steps.
"""

from __future__ import annotations

import argparse
import lzma
import time

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from foundation.calculators.ase import FoundationCalculator


def supercell_difference(atoms: Atoms, calculator: FoundationCalculator) -> float:
    """Relative difference of the energy per molecule between a cell and its 2×2×2 supercell."""
    single, eight = atoms.copy(), atoms.repeat((2, 2, 2))
    single.calc = eight.calc = calculator
    energy = single.get_potential_energy() / len(single)
    repeated = eight.get_potential_energy() / len(eight)
    return abs(repeated - energy) / abs(energy)


def nve(atoms: Atoms, *, steps: int, time_step_fs: float, temperature: float, seed: int) -> tuple[float, float, float]:
    """Relax a little (the frames come from other temperatures and another potential), then run NVE dynamics.

    Velocities start at twice the temperature: after a relaxation half of their energy goes into potential energy.

    Returns:
        Drift, meV/atom/ps; standard deviation of the total energy about the line, meV/atom; mean temperature, K.
    """
    FIRE(atoms, logfile=None).run(fmax=0.2, steps=60)
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, temperature_K=2 * temperature, rng=rng)
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, timestep=time_step_fs * units.fs)
    energies, temperatures = [], []
    started = time.perf_counter()

    def record() -> None:
        energies.append((atoms.get_potential_energy() + atoms.get_kinetic_energy()) / len(atoms))
        temperatures.append(atoms.get_temperature())
        if len(energies) % 500 == 0:
            elapsed = time.perf_counter() - started
            print(
                f"step {len(energies)}: {energies[-1]:.7f} eV/atom, {temperatures[-1]:.0f} K, {elapsed:.0f} s",
                flush=True,
            )

    dynamics.attach(record, interval=1)
    dynamics.run(steps)
    picoseconds = np.arange(len(energies)) * time_step_fs * 1e-3
    slope, offset = np.polyfit(picoseconds, energies, 1)
    scatter = float(np.std(np.asarray(energies) - slope * picoseconds - offset))
    return 1e3 * float(slope), 1e3 * scatter, float(np.mean(temperatures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("structures", help="extended XYZ, xz-compressed or not; the first frame is used")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--time-step", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    opener = lzma.open if options.structures.endswith(".xz") else open
    with opener(options.structures, "rt") as file:
        atoms = ase.io.read(file, index=0, format="extxyz")
    calculator = FoundationCalculator(options.model, charge=0, spin=1, dtype="float64")
    difference = supercell_difference(atoms, calculator)
    print(
        f"{len(atoms)} atoms against 2x2x2: relative difference of the energy per molecule {difference:.2e}", flush=True
    )
    atoms.calc = calculator
    drift, scatter, temperature = nve(
        atoms, steps=options.steps, time_step_fs=options.time_step, temperature=options.temperature, seed=options.seed
    )
    print(
        f"NVE, {options.steps} steps of {options.time_step} fs at {temperature:.0f} K: "
        f"drift {drift:+.4f} meV/atom/ps, scatter {scatter:.4f} meV/atom"
    )


if __name__ == "__main__":
    main()
