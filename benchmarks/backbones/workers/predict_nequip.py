"""Energies and forces of test frames by nequip: `python -m … TEST SYMBOLS CUTOFF CHECKPOINT=OUTPUT …`."""

from __future__ import annotations

import sys

import ase.io
import numpy as np
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import ModelFromCheckpoint
from nequip.train.lightning import _SOLE_MODEL_KEY
from nequip.utils.global_state import set_global_state

BATCH = 10


def main(test: str, symbols: str, cutoff: str, *pairs: str) -> None:
    set_global_state()
    transforms = [
        ChemicalSpeciesToAtomTypeMapper(model_type_names=symbols.split(",")),
        NeighborListTransform(r_max=float(cutoff)),
    ]
    frames = []
    for atoms in ase.io.iread(test):
        atoms.calc = None
        frame = from_ase(atoms)
        for transform in transforms:
            frame = transform(frame)
        frames.append(frame)
    for checkpoint, output in (pair.split("=") for pair in pairs):
        model = ModelFromCheckpoint(checkpoint, compile_mode="eager")[_SOLE_MODEL_KEY].eval()  # averaged weights
        energy, forces = [], []
        for start in range(0, len(frames), BATCH):
            result = model(AtomicDataDict.batched_from_list(frames[start : start + BATCH]))
            energy.append(result[AtomicDataDict.TOTAL_ENERGY_KEY].detach().double().numpy().reshape(-1))
            forces.append(result[AtomicDataDict.FORCE_KEY].detach().double().numpy().reshape(len(energy[-1]), -1, 3))
        np.savez(output, allow_pickle=False, energy=np.concatenate(energy), forces=np.concatenate(forces))


if __name__ == "__main__":
    main(*sys.argv[1:])
