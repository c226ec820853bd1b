"""Infrared spectrum of a molecule, from the dipole moments along a molecular dynamics run, with its plot.

    make quickstart
    python docs/examples/infrared.py runs/quickstart "CO" --out infrared.png

The spectrum at temperature T is the power spectrum of dP/dt along constant-energy dynamics; classical nuclei, with the
quantum correction that makes it exact for harmonic vibrations. Below it stand the model's own harmonic lines: normal
modes from finite differences of forces, intensities from Born charges. Where dynamics and lines agree, forces, dipoles
and Born charges of the model belong together.

Source: Ramírez, López-Ciudad, Kumar and Marx, J. Chem. Phys. 121, 3973 (2004), eqs. 12 and 21.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ase
import ase.io
import matplotlib as mpl
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import foundation
from foundation.calculators.ase import FoundationCalculator

mpl.use("Agg")
import matplotlib.pyplot as plt

INVERSE_CM = 1e15 / 2.99792458e10
"""1/cm of a frequency of 1/fs: 1e15 Hz over the speed of light in cm/s."""
HARMONIC_WIDTH = 10.0
"""1/cm."""


def molecule(text: str) -> ase.Atoms:
    """From a file that ASE reads, or from SMILES."""
    if Path(text).exists():
        atoms = ase.io.read(text)
        assert isinstance(atoms, ase.Atoms)
        return atoms
    parsed = Chem.MolFromSmiles(text)
    if parsed is None:
        sys.exit(f"'{text}' is neither a file nor SMILES")
    complete = Chem.AddHs(parsed)
    if rdDistGeom.EmbedMolecule(complete, randomSeed=0) != 0:
        sys.exit(f"'{text}': no geometry found")
    return ase.Atoms([atom.GetSymbol() for atom in complete.GetAtoms()], complete.GetConformer().GetPositions())


def dipoles_along_dynamics(
    atoms: ase.Atoms, *, temperature: float, time_fs: float, step_fs: float, seed: int
) -> np.ndarray:
    """Dipole moments (e·Å), one a step, of a constant-energy run that starts thermalised."""
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    bath = {"temperature_K": temperature, "friction": 0.01 / units.fs, "rng": rng, "fixcm": False}
    Langevin(atoms, step_fs * units.fs, **bath).run(int(1000 / step_fs))
    Stationary(atoms)
    ZeroRotation(atoms)
    dipoles: list[np.ndarray] = []
    dynamics = VelocityVerlet(atoms, step_fs * units.fs)
    dynamics.attach(lambda: dipoles.append(np.array(atoms.get_dipole_moment())))
    dynamics.run(int(time_fs / step_fs))
    return np.array(dipoles)


def spectrum(dipoles: np.ndarray, *, step_fs: float, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers (1/cm) and intensity: the mean power spectrum of dP/dt over overlapping windows of `resolution`."""
    rates = np.gradient(dipoles, step_fs, axis=0)
    length = min(len(rates), int(INVERSE_CM / (resolution * step_fs)))
    window = np.hanning(length)[:, None]
    starts = range(0, len(rates) - length + 1, max(1, length // 2))
    power = [np.abs(np.fft.rfft(window * rates[start : start + length], n=4 * length, axis=0)) ** 2 for start in starts]
    return np.fft.rfftfreq(4 * length, step_fs) * INVERSE_CM, np.mean(power, axis=0).sum(1)


def harmonic_lines(
    model: foundation.FoundationModel, atoms: ase.Atoms, *, charge: int, spin: int, step: float = 0.005
) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers (1/cm; imaginary ones negative) and intensities Σ |dP/dQ|² (e²/amu) of the normal modes."""
    size = 3 * len(atoms)
    hessian = np.empty((size, size))
    for index in range(size):
        sides = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions.flat[index] += sign * step
            sides.append(moved.get_forces().ravel())
        hessian[index] = -(sides[0] - sides[1]) / (2 * step)
    roots = np.repeat(atoms.get_masses(), 3) ** -0.5
    values, modes = np.linalg.eigh((hessian + hessian.T) / 2 * np.outer(roots, roots))
    # eV / (Å² amu) is the square of ASE's inverse unit of time.
    per_fs = np.sign(values) * np.sqrt(np.abs(values)) / (2 * np.pi) * units.fs
    found = model.predict(atoms, properties=["born_charges"], charge=charge, spin=spin)
    assert not isinstance(found, list)
    born = np.asarray(found.values["born_charges"])
    changes = np.einsum("iab,ibn->an", born, (roots[:, None] * modes).reshape(len(atoms), 3, size))
    return per_fs * INVERSE_CM, (changes**2).sum(0)


def main() -> None:
    """Run dynamics, print the lines, draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("structure", help="SMILES, or a file with one molecule")
    parser.add_argument("--out", type=Path, default=Path("infrared.png"))
    parser.add_argument("--charge", type=int, default=0)
    parser.add_argument("--spin", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--runs", type=int, default=8, help="thermalised apart: one start is luck for each band")
    parser.add_argument("--time", type=float, default=4_000.0, help="fs of each")
    parser.add_argument("--step", type=float, default=0.5, help="fs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = foundation.load(options.model)
    atoms = molecule(options.structure)
    atoms.calc = FoundationCalculator(model, charge=options.charge, spin=options.spin, dtype="float64")
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=500)
    wavenumbers, intensities = harmonic_lines(model, atoms, charge=options.charge, spin=options.spin)
    for wavenumber, intensity in zip(wavenumbers, intensities, strict=True):
        if abs(wavenumber) > 50:
            sys.stdout.write(f"{wavenumber:8.1f} 1/cm  {intensity:.4f} e²/amu\n")
    relaxed = atoms.positions.copy()
    powers = []
    for run in range(options.runs):
        atoms.positions = relaxed
        dipoles = dipoles_along_dynamics(
            atoms,
            temperature=options.temperature,
            time_fs=options.time,
            step_fs=options.step,
            seed=options.seed + run,
        )
        axis_values, one = spectrum(dipoles, step_fs=options.step, resolution=15.0)
        powers.append(one)
    power = np.mean(powers, axis=0)
    lines = (intensities * np.exp(-(((axis_values[:, None] - wavenumbers) / HARMONIC_WIDTH) ** 2))).sum(1)
    shown = (axis_values > 200) & (axis_values < 4200)
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axis.plot(axis_values[shown], power[shown] / power[shown].max(), color="#0072b2", label="dynamics")
    axis.plot(axis_values[shown], -lines[shown] / lines[shown].max(), color="#d55e00", label="harmonic")
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlabel="wavenumber, 1/cm", ylabel="intensity", yticks=[])
    axis.set_title(f"{options.structure}, {options.temperature:g} K", fontsize=10)
    axis.invert_xaxis()
    axis.legend(frameon=False)
    figure.savefig(options.out, dpi=140)


if __name__ == "__main__":
    main()
