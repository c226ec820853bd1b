"""Conformers of molecules given as SMILES: ETKDG, the same for the same seed wherever and however they are made."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from foundation.config import Config
from foundation.errors import InputError

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
        InputError: No conformer was found.
    """
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _molecule_seed(Chem.MolToSmiles(Chem.RemoveHs(mol)), config.seed)
    parameters.maxIterations = config.max_iterations
    indices = list(rdDistGeom.EmbedMultipleConfs(mol, config.count, parameters))
    if len(indices) < config.count:
        parameters.useRandomCoords = True
        indices = list(rdDistGeom.EmbedMultipleConfs(mol, config.count, parameters))
    if not indices:
        raise InputError(f"no conformer found in {config.max_iterations} attempts")
    if config.force_field == "mmff94s":
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            raise InputError("the force field mmff94s has no parameters for this molecule")
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, mmffVariant="MMFF94s")
    return [np.array(mol.GetConformer(index).GetPositions(), dtype=np.float64) for index in indices]


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
