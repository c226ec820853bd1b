"""Sites of metabolism, five folds by molecule: symmetry-aware top-k over all held-back molecule–isoform rows.

    for fold in 0 1 2 3 4; do foundation train tasks/som $(for i in 1A2 2A6 2B6 2C8 2C9 2C19 2D6 2E1 3A4; do
        echo data.CYP$i.split.fold=$fold; done) --out runs/som_$fold; done
    python benchmarks/som_folds.py runs/som_0 runs/som_1 runs/som_2 runs/som_3 runs/som_4

A row is one molecule for one isoform. Atoms that the molecular graph cannot tell apart (RDKit's canonical ranks without
tie-breaking) count as one site with the mean of their logits; a row is hit at k if one of its k best sites is labelled.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

import foundation
from foundation.data.graph import AtomGraph, collate
from foundation.run.directory import read_recipe
from foundation.run.plan import prepare_data

TOP = (1, 2, 3)


def sites_of(logits: np.ndarray, labels: np.ndarray, classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Merge equivalent atoms: mean logit, label if any of them is labelled."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, symmetry in enumerate(classes):
        members[symmetry].append(index)
    merged = [(logits[rows].mean(), labels[rows].max()) for rows in members.values()]
    return np.array([score for score, _ in merged]), np.array([label for _, label in merged])


def fold_hits(run: Path) -> dict[str, list[list[bool]]]:
    """Isoform -> one entry a held-back row with a site: whether it is hit at each k."""
    data = prepare_data(read_recipe(run))
    model = foundation.load(str(run)).eval()
    hits: dict[str, list[list[bool]]] = defaultdict(list)
    for name in data.dataset_names:
        graphs = data.graphs(name, "test")
        for graph in graphs:
            with torch.no_grad():
                logits = model(collate([graph]), properties=["site_of_metabolism"])["site_of_metabolism"].numpy()
            mask = graph.masks["site_of_metabolism"].numpy()
            labels = graph.targets["site_of_metabolism"].numpy()[mask] > 0
            if not labels.any():
                continue
            classes = heavy_classes(graph, mask)
            scores, merged = sites_of(logits[mask], labels, classes)
            order = np.argsort(-scores, kind="stable")
            hits[name].append([bool(merged[order[:k]].any()) for k in TOP])
    return hits


def heavy_classes(graph: AtomGraph, mask: np.ndarray) -> list[int]:
    """Symmetry classes of the labelled atoms, from bonds that RDKit perceives in the 3-D structure's connectivity."""
    numbers = graph.atomic_numbers.numpy()
    positions = graph.positions.numpy()
    block = f"{len(numbers)}\n\n" + "\n".join(
        f"{Chem.GetPeriodicTable().GetElementSymbol(int(number))} {x:.5f} {y:.5f} {z:.5f}"
        for number, (x, y, z) in zip(numbers, positions, strict=True)
    )
    molecule = Chem.MolFromXYZBlock(block)
    rdDetermineBonds.DetermineConnectivity(molecule)
    classes = list(Chem.CanonicalRankAtoms(molecule, breakTies=False))
    return [classes[index] for index in np.flatnonzero(mask)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pooled: dict[str, list[list[bool]]] = defaultdict(list)
    for run in options.runs:
        found = fold_hits(run)
        everything = np.array([row for rows in found.values() for row in rows])
        print(f"{run}: {len(everything)} rows, top-1/2/3 {' / '.join(f'{100 * x:.1f}' for x in everything.mean(0))} %")
        for name, rows in found.items():
            pooled[name] += rows
    for name, rows in pooled.items():
        print(f"{name}: {len(rows)} rows, {' / '.join(f'{100 * x:.1f}' for x in np.mean(rows, axis=0))} %")
    everything = np.array([row for rows in pooled.values() for row in rows])
    result = {f"top{k}": float(value) for k, value in zip(TOP, everything.mean(0), strict=True)}
    print(f"all folds: {len(everything)} rows, {result}")
    if options.json:
        options.json.write_text(json.dumps({**result, "rows": len(everything)}), encoding="utf-8")


if __name__ == "__main__":
    main()
