"""nequip's share of a speed row."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from ase import Atoms
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import NequIPGNNModel, PresetNequIPGNNModel
from nequip.utils.global_state import set_global_state

from benchmarks.backbones.workers.measure import Request, Work, main

SYMBOLS = ["H", "C", "O"]
MEAN_NEIGHBORS = 14.5
BUILDERS = {f"nequip.model.{builder.__name__}": builder for builder in (NequIPGNNModel, PresetNequIPGNNModel)}


def build_model(settings: dict[str, Any], mode: str) -> torch.nn.Module:
    """The model of a configuration's section `model`; weights at random."""
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    return BUILDERS[settings["_target_"]](
        seed=0,
        model_dtype="float32",
        type_names=SYMBOLS,
        avg_num_neighbors=MEAN_NEIGHBORS,
        compile_mode=mode,
        **arguments,
    )


def batch_of(frames: list[Atoms], cutoff: float) -> dict[str, torch.Tensor]:
    """One batch as nequip's models take it."""
    transforms = [ChemicalSpeciesToAtomTypeMapper(model_type_names=SYMBOLS), NeighborListTransform(r_max=cutoff)]
    graphs = []
    for atoms in frames:
        graph = from_ase(atoms)
        for transform in transforms:
            graph = transform(graph)
        graphs.append(graph)
    return AtomicDataDict.batched_from_list(graphs)


def build(settings: dict[str, Any], mode: str, request: Request) -> Work:
    set_global_state(allow_tf32=request.tf32)
    model = build_model(settings, mode).to(request.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    made = [batch_of(frames, settings["r_max"]) for frames in request.inputs()]
    batches = itertools.cycle([{name: value.to(request.device) for name, value in one.items()} for one in made])
    if request.batch_size is None:
        model.eval()
        return Work(lambda: model(dict(next(batches)))[AtomicDataDict.FORCE_KEY], parameters)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    keys = (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY)

    def step() -> None:
        batch = dict(next(batches))
        labels = [batch.pop(key) for key in keys]
        optimizer.zero_grad(set_to_none=True)
        result = model(batch)
        losses = [(result[key] - label).square().mean() for key, label in zip(keys, labels, strict=True)]
        torch.stack(losses).sum().backward()
        optimizer.step()

    return Work(step, parameters)


if __name__ == "__main__":
    main(build)
