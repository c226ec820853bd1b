"""Do molecules far apart keep their own charges? Pairs of neutral molecules 100 Å apart, against each alone.

    foundation train tasks/dipeptides --out runs/dipeptides
    python benchmarks/separated_molecules.py runs/dipeptides [SMILES ...]

For each pair: what charge the first has in the presence of the second, by how much the energy of both together is not
that of each alone, and what either misses by itself before it is shared out.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations

import numpy as np
from ase import Atoms

import foundation
from foundation.predict.structures import from_smiles

DISTANCE = 100.0
"""Å."""
DIPEPTIDES = ("CC(=O)NCC(=O)NC", "CC(=O)N[C@@H](C)C(=O)NC", "CC(=O)N[C@@H](CC(N)=O)C(=O)NC")
OTHERS = ("CO",)


def main() -> None:
    """Print one line a pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("smiles", nargs="*", default=[*DIPEPTIDES, *OTHERS])
    arguments = parser.parse_args()
    model = foundation.load(arguments.model)
    shapes = {}
    for smiles in arguments.smiles:
        made = from_smiles(smiles, name=smiles, where="command line")
        shapes[smiles] = Atoms(made.atomic_numbers, made.positions)

    def predicted(atoms: Atoms, *names: str) -> dict[str, np.ndarray]:
        found = model.predict(atoms, properties=names, charge=0, spin=1, level=model.config.levels[0])
        assert not isinstance(found, list)
        return found.values

    names = ("energy", "missing_charge") if "missing_charge" in model.properties else ("energy",)
    alone = {smiles: predicted(atoms, *names) for smiles, atoms in shapes.items()}
    for one, other in combinations(shapes, 2):
        far = shapes[other].copy()
        far.positions += [DISTANCE, 0, 0]
        both = predicted(shapes[one] + far, "energy", "partial_charges")
        charge = float(both["partial_charges"][: len(shapes[one])].sum())
        excess = 1e3 * float(both["energy"] - alone[one]["energy"] - alone[other]["energy"])
        missing = [float(alone[smiles].get("missing_charge", np.nan)) for smiles in (one, other)]
        sys.stdout.write(
            f"{one} and {other}: charge of the first {charge:+.3f} e, energy {excess:+.1f} meV off; missing alone "
            f"{missing[0]:+.3f} and {missing[1]:+.3f} e\n"
        )


if __name__ == "__main__":
    main()
