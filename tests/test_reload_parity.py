"""The same errors whoever asks: a model in memory, the same one reloaded, and ASE with its calculator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import foundation
from foundation.calculators.ase import FoundationCalculator
from foundation.checkpoint import CardInfo, load, save_model
from foundation.data.files import DataFile
from foundation.data.graph import build_graph
from foundation.data.neighbors import with_neighbors
from foundation.data.readers.extxyz import read_extxyz_frames
from foundation.data.readers.record import RawFrame
from foundation.data.sampler import BatchConfig
from foundation.model import FoundationModel
from foundation.scaling import fit_scaling
from foundation.training.evaluation import evaluate

EMBEDDED = Path(foundation.__file__).parent / "data" / "embedded" / "gfn2.xyz.xz"
ELEMENTS = (1, 6, 7, 8, 9, 16, 17)
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def frames() -> list[RawFrame]:
    """Real labels, spread over the whole file: ions are among them."""
    file = DataFile(path=EMBEDDED, format="extxyz", split=None, sha256=None)
    return list(read_extxyz_frames(file, limit=None))[::97]


def test_errors_agree_in_memory_reloaded_and_in_ase(
    make_model: Callable[..., FoundationModel], frames: list[RawFrame], tmp_path: Path
) -> None:
    model = make_model({"energy": {"kind": "energy"}, "charges": {"kind": "charges"}}, elements=ELEMENTS)
    graphs = [
        with_neighbors(
            build_graph(
                positions=frame.positions,
                atomic_numbers=frame.atomic_numbers,
                total_charge=float(frame.values["total_charge"]),
                spin_multiplicity=int(frame.values["spin"]),
                targets={name: np.asarray(frame.values[name]) for name in ("energy", "forces", "dipole")},
            ),
            model.cutoff,
        )
        for frame in frames
    ]
    assert len({float(graph.total_charge) for graph in graphs}) > 1
    table = fit_scaling(graphs, properties=model.properties, levels=model.config.levels, isolated_atoms={})
    model.scaling.set_table(table)
    save_model(model, tmp_path / "model", card_info=CardInfo(title="parity"), raw_state=None)
    batch = BatchConfig(max_structures=5)
    before = evaluate(model, {"embedded": graphs}, batch=batch, device="cpu").metrics["embedded"]
    after = evaluate(load(tmp_path / "model"), {"embedded": graphs}, batch=batch, device="cpu").metrics["embedded"]
    in_ase = _errors_in_ase(tmp_path / "model", frames)
    assert in_ase.keys() == {"energy", "energy_per_atom", "forces", "dipole"} <= before.keys()
    for name, figures in in_ase.items():
        for metric, value in figures.items():
            assert after[name][metric] == pytest.approx(before[name][metric], rel=RELATIVE), (name, metric)
            assert value == pytest.approx(before[name][metric], rel=RELATIVE), (name, metric)


def _errors_in_ase(directory: Path, frames: list[RawFrame]) -> dict[str, dict[str, float]]:
    calculator = FoundationCalculator(str(directory))
    residuals: dict[str, list[np.ndarray]] = {"energy": [], "energy_per_atom": [], "forces": [], "dipole": []}
    for frame in frames:
        atoms = Atoms(frame.atomic_numbers, frame.positions)
        atoms.info.update(total_charge=frame.values["total_charge"], spin=frame.values["spin"])
        atoms.calc = calculator
        energy = np.array([atoms.get_potential_energy() - frame.values["energy"]])
        residuals["energy"].append(energy)
        residuals["energy_per_atom"].append(energy / len(atoms))
        residuals["forces"].append((atoms.get_forces() - frame.values["forces"]).ravel())
        residuals["dipole"].append(atoms.get_dipole_moment() - frame.values["dipole"])
    flat = {name: np.concatenate(parts) for name, parts in residuals.items()}
    return {
        name: {"mae": float(np.abs(values).mean()), "rmse": float(np.sqrt(np.square(values).mean()))}
        for name, values in flat.items()
    }
