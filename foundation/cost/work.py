"""What is repeated while cost is measured: energies and forces of a batch, and a whole training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from foundation.backbones import BackboneConfig
from foundation.compilation import CompiledModel
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads.energy import EnergyConfig
from foundation.model import FoundationModel, ModelConfig
from foundation.scaling import fit_scaling

ELEMENTS = (1, 6, 8)
LEVEL = "stated for cost"
ENERGY_AND_FORCES = ("energy", "forces")
CALIBRATED_ON = 8


def labelled_graph(atoms: Atoms, *, cutoff: float) -> AtomGraph:
    """A structure with its edges and labels drawn at random: cost does not depend on them.

    Args:
        atoms: Neutral, singlet.
        cutoff: Å.
    """
    graph = build_graph(
        positions=atoms.positions,
        atomic_numbers=atoms.numbers,
        total_charge=0.0,
        spin_multiplicity=1,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
        targets={"energy": np.zeros(()), "forces": np.random.default_rng(0).standard_normal((len(atoms), 3))},
    )
    return with_neighbors(graph, cutoff)


def build_model(backbone: BackboneConfig, molecules: Sequence[Atoms]) -> FoundationModel:
    """A backbone with an energy head, on the CPU, as before its first step; but its head is drawn at random too.

    Args:
        backbone: Its size.
        molecules: Of hydrogen, carbon and oxygen; scales are measured on them.
    """
    config = ModelConfig(backbone=backbone, heads={"energy": EnergyConfig()}, elements=ELEMENTS, levels=(LEVEL,))
    graphs = [labelled_graph(atoms, cutoff=backbone.cutoff) for atoms in molecules]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FoundationModel(config)
        scaling = fit_scaling(graphs, properties=model.properties, levels=(LEVEL,), isolated_atoms={})
        model.prepare(scaling, collate(graphs[:CALIBRATED_ON]))
        for parameter in model.heads.parameters():
            nn.init.normal_(parameter)
    return model


def energy_and_forces(forward: FoundationModel | CompiledModel, batch: AtomGraph) -> Callable[[], dict[str, Tensor]]:
    """Energies and forces of a batch, not to be differentiated."""

    def infer() -> dict[str, Tensor]:
        with torch.no_grad():
            return forward(batch, properties=ENERGY_AND_FORCES)

    return infer


def training_step(
    forward: FoundationModel | CompiledModel,
    batch: AtomGraph,
    optimizer: torch.optim.Optimizer,
    *,
    autocast: torch.dtype | None,
) -> Callable[[], None]:
    """Energies, forces, squared errors of both, gradients of all weights, and the optimizer's step.

    Args:
        forward: The model, or its compiled form.
        batch: With labels.
        optimizer: Of the model's weights.
        autocast: Type of matrix products in the forward pass, forces included; None for the model's own.
    """

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.positions.device.type, dtype=autocast, enabled=autocast is not None):
            outputs = forward(batch, properties=ENERGY_AND_FORCES, create_graph=True)
        errors = [(outputs[name] - batch.targets[name]).square().mean() for name in ENERGY_AND_FORCES]
        torch.stack(errors).sum().backward()
        optimizer.step()

    return step


def held_tensors(model: FoundationModel, optimizer: torch.optim.Optimizer, batch: AtomGraph) -> Iterator[Tensor]:
    """What a step finds in memory: weights, buffers, the state of the optimizer, the batch."""
    yield from model.parameters()
    yield from model.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
    for value in batch.to_dict().values():
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, Tensor):
                yield one
