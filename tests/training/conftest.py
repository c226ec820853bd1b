"""A small real model and small labelled structures for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.backbones import EquivariantConfig
from foundation.config import validate
from foundation.data.card import DatasetConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.module import GraphDataModule
from foundation.data.neighbors import with_neighbors
from foundation.data.sampler import BatchConfig
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.scaling import fit_scaling

CUTOFF = 3.0
ELEMENTS = (1, 6, 8)
SYMBOLS = {1: "H", 6: "C", 8: "O"}
LEVEL = "Morse"
PREDICTED = ("energy", "position_noise", "masked_element", "handedness")


def morse(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Å) of atoms that attract each other by a Morse potential, 1 eV deep at 1.5 Å."""
    coordinates = torch.tensor(positions, requires_grad=True)
    distances = torch.pdist(coordinates)
    energy = ((1 - torch.exp(-1.5 * (distances - 1.5))).square() - 1).sum()
    (gradient,) = torch.autograd.grad(energy, coordinates)
    return energy.item(), -gradient.numpy()


def make_graph(index: int, *, num_atoms: int, with_forces: bool, dataset: int) -> AtomGraph:
    """One structure, atoms at least 1 Å apart, its energy offset by its composition."""
    random = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 1.6
    positions = grid[random.choice(len(grid), num_atoms, replace=False)] + random.normal(0, 0.15, (num_atoms, 3))
    numbers = random.choice(ELEMENTS, num_atoms)
    energy, forces = morse(positions)
    offset = -10.0 * float(numbers.sum())
    targets = {"energy": np.array(energy + offset), "handedness": np.array(1.0 if index % 2 else -1.0)}
    if with_forces:
        targets["forces"] = forces
    graph = build_graph(
        positions=positions,
        atomic_numbers=numbers,
        total_charge=0.0,
        spin_multiplicity=1 + int(numbers.sum()) % 2,
        targets=targets,
        dataset_index=dataset,
        structure_index=index,
    )
    return with_neighbors(graph, CUTOFF)


@pytest.fixture(scope="session")
def graphs() -> list[AtomGraph]:
    """24 structures of two data sets; every third has no forces."""
    return [make_graph(i, num_atoms=3 + i % 4, with_forces=i % 3 != 0, dataset=int(i % 4 == 3)) for i in range(24)]


@pytest.fixture(scope="session")
def make_model(graphs: list[AtomGraph]) -> Callable[[], FoundationModel]:
    """A function that makes the same small model again and again."""
    config = ModelConfig(
        backbone=EquivariantConfig(
            cutoff=CUTOFF,
            channels=4,
            pseudo_channels=2,
            radial_groups=2,
            num_layers=2,
            edge_degree=1,
            degree=1,
            product_degree=1,
            correlation=2,
            radial_width=8,
            radial_hidden=1,
        ),
        heads={name: default_head(name) for name in PREDICTED},
        elements=ELEMENTS,
        levels=(LEVEL,),
    )

    def make() -> FoundationModel:
        torch.manual_seed(0)
        model = FoundationModel(config)
        table = fit_scaling(graphs, properties=model.properties, levels=(LEVEL,), isolated_atoms={})
        model.prepare(table, collate(graphs[:8]))
        return model

    return make


def write_extxyz(path: Path, graphs: Sequence[AtomGraph], *, with_forces: bool) -> None:
    """Write structures with their labels as a user would."""
    lines = []
    for graph in graphs:
        energy, spin = graph.targets["energy"].item(), graph.spin_multiplicity.item()
        columns = "species:S:1:pos:R:3" + (":force:R:3" if with_forces else "")
        lines += [str(len(graph.positions)), f'Properties={columns} energy={energy!r} spin={spin} pbc="F F F"']
        _, forces = morse(graph.positions.numpy())
        rows = np.concatenate([graph.positions.numpy(), forces], axis=1) if with_forces else graph.positions.numpy()
        for number, row in zip(graph.atomic_numbers.tolist(), rows.tolist(), strict=True):
            lines.append(" ".join([SYMBOLS[number], *(repr(value) for value in row)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def make_data(graphs: list[AtomGraph], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], GraphDataModule]:
    """A function that opens the same two data sets again and again: the first has forces, the second has not."""
    folder = tmp_path_factory.mktemp("data")
    parts = {"first": graphs[:16], "second": graphs[16:]}
    datasets = {}
    for name, part in parts.items():
        path = folder / f"{name}.xyz"
        write_extxyz(path, part, with_forces=name == "first")
        properties: dict[str, dict[str, str]] = {"energy": {"key": "energy", "unit": "eV"}}
        if name == "first":
            properties["forces"] = {"key": "force", "unit": "eV/Å"}
        facts = {
            "source": str(path),
            "format": "extxyz",
            "level_of_theory": LEVEL,
            "charge": 0,
            "spin": {"key": "spin"},
            "properties": properties,
            "split": {"val": 4, "seed": 0, "by": "random"},
        }
        datasets[name] = validate(DatasetConfig, facts, where=name)

    def make() -> GraphDataModule:
        data = GraphDataModule(
            datasets, cutoff=CUTOFF, batch=BatchConfig(max_structures=4), seed=5, cache_dir=folder / "cache"
        )
        data.prepare_data()
        data.setup()
        return data

    return make
