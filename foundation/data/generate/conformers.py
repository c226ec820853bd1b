"""Conformers of a molecule: embedded, relaxed, displaced thermally, and checked to be still that molecule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses, covalent_radii
from jaxtyping import Float, Int
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Geometry import Point3D
from scipy.linalg import orth

from foundation.data.generate.molecules import LabelledMolecule, handedness_of
from foundation.data.generate.xtb import label_geometry
from foundation.units import AMU_A2_PER_FS2_IN_EV, BOLTZMANN_IN_EV_PER_K

__all__ = ["RelaxedConformer", "centre_of_mass", "displace", "embed", "is_same_molecule", "relax"]

_RELAXATION_STEPS = 80
_RELAXATION_FORCE = 0.02  # eV/Å
_MAX_STEP = 0.15  # Å
_INITIAL_CURVATURE = 40.0  # eV/Å²
_HESSIAN_STEP = 0.01  # Å
_SOFTEST_MODE = 300.0  # 1/cm; softer modes move as if they had this wave number
_SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs
# Bounds on distances in units of the sum of covalent radii.
_LONGEST_BOND = 1.35
_SHORTEST_CONTACT = 1.25
# Rotation about the axis of a linear molecule moves nothing; below this share of the largest motion it is left out.
_RIGID_MOTION = 0.02

ForcesAt = Callable[[Float[np.ndarray, " coordinates"]], Float[np.ndarray, " coordinates"]]


@dataclass(frozen=True)
class RelaxedConformer:
    """A minimum, or nearly one, and the harmonic distribution about it.

    Attributes:
        positions: About the centre of mass, Å.
        thermal_root: Symmetric; a standard normal vector times this times √(kT) is a mass-weighted displacement.
            Unit 1/√(eV/(Å²·amu)).
    """

    positions: Float[np.ndarray, "atoms 3"]
    thermal_root: Float[np.ndarray, "coordinates coordinates"]


def embed(mol: Chem.Mol, *, count: int, seed: int) -> list[Float[np.ndarray, "atoms 3"]]:
    """Embed conformers with ETKDG.

    Args:
        mol: With explicit hydrogen atoms.
        count: Number of conformers asked for.
        seed: Seed of the embedding, below 2³¹.

    Returns:
        Positions, Å; possibly fewer than asked for, never none.

    Source: ETKDGv3, Wang, Witek, Landrum, Riniker, J. Chem. Inf. Model. 60, 2044 (2020).
    """
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    with rdBase.BlockLogs():  # it grumbles about ions that it has no force field for, and embeds them all the same
        indices = list(rdDistGeom.EmbedMultipleConfs(mol, count, parameters))
    assert indices, f"molecule '{Chem.MolToSmiles(mol)}' cannot be embedded"
    return [mol.GetConformer(index).GetPositions() for index in indices]


def centre_of_mass(
    positions: Float[np.ndarray, "atoms 3"], numbers: Int[np.ndarray, " atoms"]
) -> Float[np.ndarray, " 3"]:
    """Give the centre of mass, Å, with standard atomic weights (those of ASE)."""
    masses = atomic_masses[numbers]
    return masses @ positions / masses.sum()


def relax(
    positions: Float[np.ndarray, "atoms 3"], *, numbers: Int[np.ndarray, " atoms"], total_charge: int
) -> RelaxedConformer:
    """Relax with GFN2-xTB and expand harmonically about the result.

    Args:
        positions: Starting point, Å.
        numbers: Atomic numbers.
        total_charge: e.

    Raises:
        UnlabelledError: A geometry on the way has no labels.
    """

    def forces_at(coordinates: Float[np.ndarray, " coordinates"]) -> Float[np.ndarray, " coordinates"]:
        return label_geometry(coordinates.reshape(-1, 3), numbers=numbers, total_charge=total_charge).forces.ravel()

    coordinates = _minimise(positions.ravel(), forces_at)
    relaxed = coordinates.reshape(-1, 3)
    relaxed = relaxed - centre_of_mass(relaxed, numbers)
    steps = _HESSIAN_STEP * np.eye(relaxed.size)
    columns = [forces_at(relaxed.ravel() - step) - forces_at(relaxed.ravel() + step) for step in steps]
    hessian = np.stack(columns) / (2 * _HESSIAN_STEP)
    return RelaxedConformer(
        positions=relaxed, thermal_root=_thermal_root(relaxed, hessian=(hessian + hessian.T) / 2, numbers=numbers)
    )


def displace(
    conformer: RelaxedConformer,
    *,
    numbers: Int[np.ndarray, " atoms"],
    temperature: float,
    random: np.random.Generator,
) -> Float[np.ndarray, "atoms 3"]:
    """Draw a geometry from the classical harmonic distribution about a conformer.

    Args:
        conformer: Where to start from.
        numbers: Atomic numbers.
        temperature: K.
        random: Source of the draw.

    Returns:
        Positions, Å.
    """
    normal = random.standard_normal(conformer.positions.size)
    weighted = np.sqrt(BOLTZMANN_IN_EV_PER_K * temperature) * conformer.thermal_root @ normal
    return conformer.positions + weighted.reshape(-1, 3) / np.sqrt(atomic_masses[numbers])[:, None]


def is_same_molecule(positions: Float[np.ndarray, "atoms 3"], *, mol: Chem.Mol, molecule: LabelledMolecule) -> bool:
    """Tell whether no bond broke or formed and the handedness read from the geometry is the labelled one.

    Args:
        positions: Å.
        mol: With explicit hydrogen atoms, in the order of the positions.
        molecule: What it has to be.
    """
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    radii = covalent_radii[numbers]
    ratios = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radii[:, None] + radii)
    bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
    others = ~bonded & ~np.eye(len(numbers), dtype=bool)
    if ratios[bonded].max() > _LONGEST_BOND or (others.any() and ratios[others].min() < _SHORTEST_CONTACT):
        return False
    return molecule.handedness is None or _handedness_in_space(positions, mol) == molecule.handedness


def _handedness_in_space(positions: Float[np.ndarray, "atoms 3"], mol: Chem.Mol) -> int | None:
    """Read R or S from positions alone, whatever tags the molecule carries."""
    flat = Chem.Mol(mol)
    flat.RemoveAllConformers()
    conformer = Chem.Conformer(flat.GetNumAtoms())
    for index, position in enumerate(positions):
        conformer.SetAtomPosition(index, Point3D(*map(float, position)))
    flat.AddConformer(conformer)
    Chem.RemoveStereochemistry(flat)
    Chem.AssignStereochemistryFrom3D(flat)
    return handedness_of(flat)


def _minimise(coordinates: Float[np.ndarray, " coordinates"], forces_at: ForcesAt) -> Float[np.ndarray, " coordinates"]:
    """Walk downhill by BFGS with limited steps, until forces are small or the steps are used up.

    Source: Nocedal, Wright, Numerical Optimization (2006), eq. 6.19; the eigenvalues' absolute values as in ASE's BFGS.
    """
    curvature = _INITIAL_CURVATURE * np.eye(coordinates.size)
    forces = forces_at(coordinates)
    for _ in range(_RELAXATION_STEPS):
        if _longest(forces) < _RELAXATION_FORCE:
            break
        values, vectors = np.linalg.eigh(curvature)
        step = vectors @ (vectors.T @ forces / np.abs(values))
        step *= min(1.0, _MAX_STEP / _longest(step))
        coordinates = coordinates + step
        previous, forces = forces, forces_at(coordinates)
        change = previous - forces
        pushed = curvature @ step
        curvature = curvature + np.outer(change, change) / (change @ step) - np.outer(pushed, pushed) / (step @ pushed)
    return coordinates


def _longest(vectors: Float[np.ndarray, " coordinates"]) -> float:
    """Give the largest norm of the vectors of the atoms."""
    return float(np.linalg.norm(vectors.reshape(-1, 3), axis=1).max())


def _thermal_root(
    positions: Float[np.ndarray, "atoms 3"],
    *,
    hessian: Float[np.ndarray, "coordinates coordinates"],
    numbers: Int[np.ndarray, " atoms"],
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Give the inverse square root of the mass-weighted Hessian in the space of the vibrations.

    A matrix function, unlike a sum over modes with random amplitudes, does not depend on how the eigenvectors of a
    degenerate mode come out, so that the geometries are the same on every machine.
    """
    root_masses = np.sqrt(np.repeat(atomic_masses[numbers], 3))
    axes = np.eye(3)
    rigid = [np.broadcast_to(axis, positions.shape) for axis in axes] + [np.cross(positions, axis) for axis in axes]
    external = orth(np.stack([motion.ravel() * root_masses for motion in rigid], axis=1), rcond=_RIGID_MOTION)
    vibrations = np.eye(hessian.shape[0]) - external @ external.T
    weighted = hessian / np.outer(root_masses, root_masses)
    values, vectors = np.linalg.eigh(vibrations @ weighted @ vibrations)
    softest = AMU_A2_PER_FS2_IN_EV * (2 * np.pi * _SPEED_OF_LIGHT * _SOFTEST_MODE) ** 2
    root = (vectors / np.sqrt(np.maximum(values, softest))) @ vectors.T
    return vibrations @ root @ vibrations
