"""Conformers of molecules given as SMILES: ETKDG, the same for the same seed wherever and however they are made."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from scipy.spatial.distance import pdist

from foundation.config import Config
from foundation.errors import InputError

SHORTEST_CONTACT = 0.72
"""Å; embedding sometimes leaves atoms closer than any bond (H₂ has 0.74 Å): such conformers are drawn anew."""
ATTEMPTS = 5

__all__ = ["ConformerConfig", "embed_molecule", "flat_inchikey"]


class ConformerConfig(Config):
    """How structures are made of SMILES.

    Attributes:
        count: Conformers a molecule; each becomes one structure of the same group.
        seed: Together with the SMILES it decides the conformers.
        force_field: What relaxes them afterwards.
        max_iterations: Embedding attempts before a molecule counts as failed.
        on_failure: Whether a molecule without conformer is an error or is left out and counted.
    """

    count: int = Field(default=1, ge=1)
    seed: int = 0
    force_field: Literal["none", "mmff94s"] = "none"
    max_iterations: int = Field(default=20, ge=1)
    on_failure: Literal["error", "skip"] = "error"


def embed_molecule(mol: Chem.Mol, config: ConformerConfig) -> list[Float[np.ndarray, "atoms 3"]]:
    """Make conformers with ETKDGv3 (Wang et al., J. Chem. Inf. Model. 60, 2044 (2020)).

    Args:
        mol: With explicit hydrogens.
        config: Count, seed and relaxation.

    Returns:
        Positions of each conformer, Å.

    Raises:
        InputError: No conformer was found, or only such with atoms on top of each other.
    """
    if config.force_field == "mmff94s" and not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        raise InputError("the force field mmff94s has no parameters for this molecule")
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    for attempt in range(ATTEMPTS):
        conformers = _embed(mol, config, seed=_molecule_seed(smiles, config.seed + attempt))
        usable = [positions for positions in conformers if _shortest_distance(positions) >= SHORTEST_CONTACT]
        if len(usable) == config.count or (usable and attempt == ATTEMPTS - 1):
            return usable
    raise InputError(
        f"no conformer found in {ATTEMPTS} x {config.max_iterations} attempts without atoms closer than "
        f"{SHORTEST_CONTACT} Å"
    )


def _embed(mol: Chem.Mol, config: ConformerConfig, *, seed: int) -> list[Float[np.ndarray, "atoms 3"]]:
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.maxIterations = config.max_iterations
    indices = list(rdDistGeom.EmbedMultipleConfs(mol, config.count, parameters))
    if len(indices) < config.count:
        parameters.useRandomCoords = True
        indices = list(rdDistGeom.EmbedMultipleConfs(mol, config.count, parameters))
    if indices and config.force_field == "mmff94s":
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, mmffVariant="MMFF94s")
    return [np.array(mol.GetConformer(index).GetPositions(), dtype=np.float64) for index in indices]


def _shortest_distance(positions: Float[np.ndarray, "atoms 3"]) -> float:
    if len(positions) < 2:
        return float("inf")
    return float(pdist(positions).min())


def flat_inchikey(mol: Chem.Mol) -> str:
    """First block of the InChIKey without stereo: one key for all stereoisomers and conformers of a molecule."""
    flat = Chem.RemoveHs(Chem.Mol(mol))
    Chem.RemoveStereochemistry(flat)
    key = Chem.MolToInchiKey(flat)
    return key.split("-")[0] if key else Chem.MolToSmiles(flat)


def _molecule_seed(smiles: str, seed: int) -> int:
    """A seed of the molecule's own, so that order, limits and workers change nothing."""
    digest = hashlib.sha256(f"{seed}:{smiles}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
