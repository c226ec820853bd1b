"""Energies and forces of test frames by mace: `python -m … MODEL TEST WEIGHTS=OUTPUT …`."""

from __future__ import annotations

import sys

import ase.io
import numpy as np
import torch
from mace import data
from mace.tools import AtomicNumberTable, torch_geometric

BATCH = 10


def main(model_file: str, test: str, *pairs: str) -> None:
    torch.set_default_dtype(torch.float32)
    model = torch.load(model_file, weights_only=False, map_location="cpu")  # written by mace in this very environment
    model.eval()
    table = AtomicNumberTable([int(number) for number in model.atomic_numbers])
    frames = [
        data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=float(model.r_max))
        for atoms in ase.io.iread(test)
    ]
    for weights, output in (pair.split("=") for pair in pairs):
        model.load_state_dict(torch.load(weights, weights_only=True))
        energy, forces = [], []
        for batch in torch_geometric.dataloader.DataLoader(frames, batch_size=BATCH, shuffle=False):
            result = model(batch.to_dict(), training=False, compute_force=True)
            energy.append(result["energy"].detach().double().numpy())
            forces.append(result["forces"].detach().double().numpy().reshape(len(energy[-1]), -1, 3))
        np.savez(output, allow_pickle=False, energy=np.concatenate(energy), forces=np.concatenate(forces))


if __name__ == "__main__":
    main(*sys.argv[1:])
