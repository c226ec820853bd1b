"""The molecules of the embedded data set: a curated list for GFN2-xTB labels, a combinatorial one for R and S."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, zip_longest

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdCIPLabeler

from foundation.errors import InputError

__all__ = [
    "ENANTIOMERS",
    "STEREOCENTRE_FREE",
    "SUBSTITUENTS",
    "LabelledMolecule",
    "curated_molecules",
    "describe_molecule",
    "handedness_molecules",
    "handedness_of",
]

# Only forward slashes mark double bonds, so that no file format has to escape a backslash.
_STEREOCENTRE_FREE = """
    C N O S Cl [H]F N#N [C-]#[O+] O=C=O S=C=O O=S=O OO NN NO C=O C#N C#C C=C CC CO CN CS CF CCl
    FCF FC(F)F FC(F)(F)F ClCCl ClC(Cl)Cl CC=O CC#N C[N+]#[C-] CC#C C=C=C CC=C CCC CCO CCN CCS CCCl
    COC CNC CSC CSSC CN(C)C CC(C)O CC(C)=O CC(C)C CCCC CC(F)(F)F
    C1CC1 C1CO1 C1CS1 C1CN1 C1COC1 C1CCOC1 C1CCNC1 C1CCSC1 C1CCCC1 C1COCCO1 C1=CCC=C1
    c1ccccc1 c1ccncc1 c1ccoc1 c1ccsc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]c1 c1cocn1
    Fc1ccccc1 Clc1ccccc1 Oc1ccccc1 Nc1ccccc1 Cc1ccccc1 Sc1ccccc1 O=Cc1ccco1
    OC=O CC(=O)O COC=O CC(=O)OC NC=O CC(N)=O CNC=O CN(C)C=O NC(N)=O NC(N)=S NC(N)=N
    O=CC=O C=CC=O C=CC=C C=CC#N N#CC#N C=CO C=CCl C=C=O C/C=C/C C(/C)=C/C F/C=C/F C(/F)=C/F Cl/C=C/Cl
    OCCO NCCO OCC=O OCC#N NCC(=O)O CS(C)=O CS(C)(=O)=O CS(N)(=O)=O CC(C)=C FC(F)=C(F)F
    CN=C=O CN=C=S CN=[N+]=[N-] C[N+](=O)[O-] C=NO C=N CC(=O)Cl O=C(F)F CC(=O)S FC(F)(F)CO
    O=C1CCC1 O=C1CCCN1 Cn1ccnc1 COCOC
    [NH4+] C[NH3+] C[NH2+]C C[N+](C)(C)C [OH3+] NC(N)=[NH2+] c1cc[nH+]cc1 c1c[nH+]c[nH]1 OC(=O)C[NH3+]
    [OH-] [C-]#N [N-]=[N+]=[N-] [S-]C#N C[O-] CC[O-] C[S-] [O-]C=O CC(=O)[O-] C=C[O-] [O-]c1ccccc1
    O=[N+]([O-])[O-] OC(=O)[O-] CS(=O)(=O)[O-] NCC(=O)[O-] [O-]C(=O)C(F)(F)F [O-]CC(F)(F)F
"""
STEREOCENTRE_FREE: tuple[str, ...] = tuple(_STEREOCENTRE_FREE.split())
"""Neutral molecules and ions without a stereocentre."""

_ENANTIOMERS = """
    C[C@H](F)Cl OC[C@H](F)Cl O=C[C@H](F)Cl N#C[C@H](F)Cl C=C[C@H](F)Cl C#C[C@H](F)Cl C[C@](F)(Cl)C#N
    C[C@H](O)C=O C[C@H](O)C#N C[C@H](O)C#C C[C@H](O)C=C C[C@H](O)CO C[C@H](O)CF C[C@H](O)C(F)(F)F CC[C@H](C)O
    OC[C@H](O)C=O C[C@H](O)C(=O)O C[C@H](O)C(=O)[O-] C[C@H]([O-])C(F)(F)F
    CC[C@H](C)N C[C@H](N)C#N C[C@H](N)CO C[C@H](N)C(=O)O C[C@H](N)C(=O)[O-] C[C@H]([NH3+])C(=O)O
    N[C@H](CO)C(=O)O N[C@H](CS)C(=O)O
    CC[C@H](C)S C[C@H](S)C#N C[C@H](S)CO CC[C@H](C)Cl C[C@H](Cl)C#N C[C@H](Cl)CO C[C@H](Cl)C=C C[C@H](Cl)C(=O)O
    CC[C@H](C)F C[C@H](F)C=O C[C@H](F)C#N C[C@H](F)CO C[C@H](F)OC C[C@H](F)C(N)=O CC[C@H](C)C#N
    C[C@H]1CO1 C[C@H]1CS1 C[C@H]1CCO1 C[C@H]1CC(=O)O1 F[C@H]1CO1 N#C[C@H]1CO1 OC[C@H]1CO1 ClC[C@H]1CO1
"""
ENANTIOMERS: tuple[str, ...] = tuple(_ENANTIOMERS.split())
"""One of the two enantiomers of each molecule with exactly one stereocentre; the list in use holds both."""

_SUBSTITUENTS = """
    H F Cl O N S C OC SC CC C=C C#C C#N C=O C(F)(F)F CF CCl CO C(=O)O C(N)=O
    NC C(C)C C(=O)C C(F)F C(Cl)Cl CN CS COC C1CC1 C(C)(C)C OC(=O)C N(C)C C=C=C C#CC CC=C CC#N C(=O)OC C(=S)N CCF CCO
"""
SUBSTITUENTS: tuple[str, ...] = tuple(_SUBSTITUENTS.split())
"""What hangs on the stereocentre of a combinatorial molecule, written from the attached atom on."""

# Smallest molecules from the commonest substituents first: (substituents in use, largest number of heavy atoms).
_POOLS = ((20, 7), (20, 17), (len(SUBSTITUENTS), 9), (len(SUBSTITUENTS), 17))


@dataclass(frozen=True)
class LabelledMolecule:
    """A molecule with what its SMILES says about it.

    Attributes:
        smiles: Atom ``i`` of every geometry is atom ``i`` of ``Chem.AddHs(Chem.MolFromSmiles(smiles))``.
        molecule: First block of the InChIKey. Both enantiomers and all protonation states of a molecule share it, so
            it is what a leakage-safe split groups by.
        total_charge: Sum of the formal charges, e.
        handedness: +1 for R, -1 for S, None where there is not exactly one stereocentre.
    """

    smiles: str
    molecule: str
    total_charge: int
    handedness: int | None


def describe_molecule(smiles: str) -> LabelledMolecule:
    """Read charge, group and handedness from a SMILES string."""
    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None, f"molecule '{smiles}' does not parse"
    return LabelledMolecule(
        smiles=smiles,
        molecule=Chem.MolToInchiKey(mol).split("-")[0],
        total_charge=Chem.GetFormalCharge(mol),
        handedness=handedness_of(mol),
    )


def handedness_of(mol: Chem.Mol) -> int | None:
    """Give +1 for R, -1 for S and None unless exactly one assigned stereocentre exists.

    Source: labels follow Hanson et al., J. Chem. Inf. Model. 58, 1755 (2018), as implemented in RDKit's CIP labeller.
    """
    labelled = Chem.Mol(mol)
    rdCIPLabeler.AssignCIPLabels(labelled)
    labels = [atom.GetProp("_CIPCode") for atom in labelled.GetAtoms() if atom.HasProp("_CIPCode")]
    return {"R": 1, "S": -1}[labels[0]] if len(labels) == 1 else None


def curated_molecules() -> tuple[LabelledMolecule, ...]:
    """Give the molecules that carry GFN2-xTB labels, with and without a stereocentre interleaved.

    The order is fixed: a molecule's position is part of its random seed.
    """
    pairs = [(smiles, smiles.replace("@", "@@")) for smiles in ENANTIOMERS]
    singles = [STEREOCENTRE_FREE[start : start + 3] for start in range(0, len(STEREOCENTRE_FREE), 3)]
    mixed = chain.from_iterable(chain(single, pair) for single, pair in zip_longest(singles, pairs, fillvalue=()))
    return tuple(describe_molecule(smiles) for smiles in mixed)


def handedness_molecules(count: int, *, seed: int) -> list[LabelledMolecule]:
    """Draw molecules with one stereocentre and four different substituents, both enantiomers of each.

    None of them shares its group with a curated molecule. Many could not be bottled (geminal amino alcohols and the
    like); only the label is used, and R and S are defined for them all the same.

    Args:
        count: Number of molecules, even, because they come in pairs.
        seed: Seed of the draw.

    Raises:
        InputError: The count is odd, not positive, or larger than the number of combinations.
    """
    if count < 2 or count % 2:
        raise InputError(
            f"handedness: {count} molecules asked for; allowed: an even number from 2 on (pairs of enantiomers)"
        )
    seen = {curated.molecule for curated in curated_molecules()}
    drawn: list[LabelledMolecule] = []
    for smiles in _combinations_in_order(np.random.default_rng(np.random.SeedSequence([seed]))):
        first = describe_molecule(smiles)
        if first.molecule not in seen:
            seen.add(first.molecule)
            drawn += [first, describe_molecule(smiles.replace("@", "@@"))]
        if len(drawn) == count:
            return drawn
    raise InputError(f"handedness: {count} molecules asked for; the substituents allow {len(drawn)} at most")


def _combinations_in_order(random: np.random.Generator) -> Iterator[str]:
    """Yield SMILES of the smallest pool in random order, then those that each larger pool adds."""
    passed: set[tuple[str, ...]] = set()
    for num_substituents, max_heavy_atoms in _POOLS:
        pool = [
            chosen
            for chosen in combinations(SUBSTITUENTS[:num_substituents], 4)
            if 1 + sum(map(_num_heavy_atoms, chosen)) <= max_heavy_atoms and chosen not in passed
        ]
        passed.update(pool)
        for index in random.permutation(len(pool)):
            yield _smiles_of(pool[index])


def _smiles_of(substituents: tuple[str, ...]) -> str:
    """Write one enantiomer of the carbon atom that carries the substituents."""
    *branches, last = (substituent for substituent in substituents if substituent != "H")
    centre = "[C@H]" if "H" in substituents else "[C@]"
    return centre + "".join(f"({branch})" for branch in branches) + last


def _num_heavy_atoms(substituent: str) -> int:
    return sum(letter in "CNOSF" for letter in substituent.replace("Cl", "F"))
