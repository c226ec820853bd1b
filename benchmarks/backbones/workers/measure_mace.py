"""mace's share of a speed row."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric

from benchmarks.backbones.workers.measure import Request, Work, main

ELEMENTS = [1, 6, 8]
MEAN_NEIGHBORS = 14.5


def build_model(settings: dict[str, Any]) -> torch.nn.Module:
    """The model that `mace_run_train` would build from these arguments; weights at random."""
    return modules.ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=settings["r_max"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=settings["max_ell"],
        interaction_cls=modules.interaction_classes[settings["interaction"]],
        interaction_cls_first=modules.interaction_classes[settings["interaction_first"]],
        num_interactions=settings["num_interactions"],
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(settings["hidden_irreps"]),
        MLP_irreps=o3.Irreps(settings["MLP_irreps"]),
        atomic_energies=np.zeros(len(ELEMENTS)),
        avg_num_neighbors=MEAN_NEIGHBORS,
        atomic_numbers=ELEMENTS,
        correlation=settings["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
    )


def batch_of(frames: list[Atoms], cutoff: float) -> dict[str, torch.Tensor]:
    """One batch as mace's models take it."""
    table, graphs = AtomicNumberTable(ELEMENTS), []
    for atoms in frames:
        configuration = data.config_from_atoms(atoms)
        if atoms.calc is not None:
            configuration.properties |= {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            configuration.property_weights |= {"energy": 1.0, "forces": 1.0}
        graphs.append(data.AtomicData.from_config(configuration, z_table=table, cutoff=cutoff))
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
    return next(iter(loader)).to_dict()


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def build(settings: dict[str, Any], mode: str, request: Request) -> Work:
    if mode != "eager":
        raise SystemExit(f"mode {mode}: mace's training does not offer it; allowed: eager")
    logging.disable(logging.WARNING)
    torch.set_default_dtype(torch.float32)
    model = build_model(settings).to(request.device)
    if settings.get("acceleration") == "cuequivariance":
        from mace.cli.convert_e3nn_cueq import run as with_cuequivariance  # an extra of mace's

        model = with_cuequivariance(model, device=request.device, return_model=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    made = [batch_of(frames, settings["r_max"]) for frames in request.inputs()]
    batches = itertools.cycle([{name: _moved(value, request.device) for name, value in one.items()} for one in made])
    if request.batch_size is None:
        model.eval()
        return Work(lambda: model(dict(next(batches)), training=False, compute_force=True)["forces"], parameters)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        result = model(dict(batch), training=True, compute_force=True)
        losses = [(result[name] - batch[name]).square().mean() for name in ("energy", "forces")]
        torch.stack(losses).sum().backward()
        optimizer.step()

    return Work(step, parameters)


if __name__ == "__main__":
    main(build)
