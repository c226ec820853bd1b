"""Our own model's share of a speed row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from benchmarks.backbones.workers.measure import Request, Work, main
from foundation.compilation import CompiledModel
from foundation.config import validate
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.model import FoundationModel, ModelConfig
from foundation.recipe import load_recipe
from foundation.scaling import fit_scaling

ELEMENTS = (1, 6, 8)
LEVEL = "PBE/def2-SVP"
ENERGY_AND_FORCES = ("energy", "forces")
CALIBRATED_ON = 8
Predict = Callable[[AtomGraph, bool], dict[str, Tensor]]


def compiled_predict(model: FoundationModel) -> Predict:
    """As `eager_predict`, compiled at its first call."""
    forward = CompiledModel(model)
    return lambda batch, create_graph: forward(batch, properties=ENERGY_AND_FORCES, create_graph=create_graph)


def eager_predict(model: FoundationModel) -> Predict:
    """Energy and forces of a batch; the second argument says whether they will be differentiated."""
    return lambda batch, create_graph: model(batch, properties=ENERGY_AND_FORCES, create_graph=create_graph)


def graph_of(atoms: Atoms, cutoff: float) -> AtomGraph:
    """One structure with its edges, and its labels if it has any."""
    labels = {} if atoms.calc is None else {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    graph = build_graph(
        positions=atoms.positions,
        atomic_numbers=atoms.numbers,
        total_charge=0.0,
        spin_multiplicity=1,
        cell=atoms.cell.array if atoms.pbc.any() else None,
        pbc=atoms.pbc,
        targets=labels,
    )
    return with_neighbors(graph, cutoff)


def build_model(settings: dict[str, Any], aspirin: list[Atoms]) -> FoundationModel:
    """The model of a recipe before its first step, scales and calibration measured on aspirin."""
    recipe = load_recipe(settings["recipe"], overrides=settings["overrides"])
    config = {
        "backbone": recipe.model.backbone.model_dump(mode="json"),
        "heads": {"energy": {"kind": "energy"}},
        "elements": list(ELEMENTS),
        "levels": [LEVEL],
    }
    model = FoundationModel(validate(ModelConfig, config, where=settings["recipe"]))
    graphs = [graph_of(atoms, model.cutoff) for atoms in aspirin]
    scaling = fit_scaling(graphs, properties=model.properties, levels=(LEVEL,), isolated_atoms={})
    model.prepare(scaling, collate(graphs[:CALIBRATED_ON]))
    return model


def build(settings: dict[str, Any], mode: str, request: Request) -> Work:
    aspirin = Request(**{**request.__dict__, "case": "aspirin"}).frames()
    model = build_model(settings, aspirin)
    predict = eager_predict(model) if mode == "eager" else compiled_predict(model)
    made = [collate([graph_of(atoms, model.cutoff) for atoms in frames]) for frames in request.inputs()]
    batches = itertools.cycle([batch.to(request.device) for batch in made])
    model.to(request.device)
    if request.batch_size is None:
        model.eval()

        def infer() -> None:
            with torch.no_grad():
                predict(next(batches), False)

        return Work(infer, model.num_parameters)
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=1e-4)

    def step() -> None:
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        result = predict(batch, True)
        losses = [(result[name] - batch.targets[name]).square().mean() for name in ENERGY_AND_FORCES]
        torch.autograd.backward(torch.stack(losses).sum(), inputs=weights)  # as `foundation train`
        optimizer.step()

    return Work(step, model.num_parameters)


if __name__ == "__main__":
    main(build)
