"""Run directories as `foundation train` leaves them: finished, with every documented file, from seeded numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

RECIPE = {
    "extends": ["base", "backbones/xs"],
    "data": {"spice/dipeptides": {"card": "spice_dipeptides"}, "enantiomers": {"card": "embedded"}},
    "tasks": {
        "energy": {"property": "energy", "data": ["spice/dipeptides"], "weight": 1, "loss": {"kind": "huber"}},
        "forces": {"property": "forces", "data": ["spice/dipeptides"], "weight": 10, "loss": {"kind": "norm"}},
        "dipole": {"property": "dipole", "data": ["spice/dipeptides"], "weight": 1, "head": {"kind": "charges"}},
        "hands": {"property": "handedness", "data": ["enantiomers"], "weight": 0.5},
        "sites": {"property": "site_of_metabolism", "data": ["enantiomers"], "weight": 0.5},
    },
    "objectives": {"noise": {"kind": "denoising", "weight": 0.1, "sigma_A": 0.05}},
    "init": {"from": "runs/pretrain"},
    "trainer": {"max_epochs": 40},
    "seed": 0,
}
NUM_STEPS = 1200
_VALIDATION = {
    "spice/dipeptides/energy_per_atom_mae_eV_per_atom": (0.08, 0.0021),
    "spice/dipeptides/forces_mae_eV_per_A": (0.9, 0.031),
    "spice/dipeptides/forces_rmse_eV_per_A": (1.4, 0.049),
    "spice/dipeptides/dipole_mae_eA": (0.4, 0.021),
}


def write_finished_run(folder: Path, *, seed: int) -> Path:
    """Write every documented file of a finished run."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    _write_metrics(folder / "metrics.csv", generator)
    predictions = _predictions(generator)
    (folder / "predictions").mkdir()
    for split in ("val", "test"):
        for dataset, arrays in predictions.items():
            np.savez_compressed(folder / "predictions" / f"{split}__{dataset.replace('/', '_')}.npz", **arrays)
    evaluation = {split: {name: _errors(arrays) for name, arrays in predictions.items()} for split in ("val", "test")}
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(_summary()), encoding="utf-8")
    return folder


def _write_metrics(path: Path, generator: np.random.Generator) -> None:
    train = ["train/loss", "train/forces_loss", "train/energy_loss", "train/learning_rate"]
    columns = ["epoch", "step", "wall_s", *train, "val/loss"]
    columns += [f"val/{name}" for name in _VALIDATION] + ["val/enantiomers/handedness_auc"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for step in range(1, NUM_STEPS + 1):
            decay = float(np.exp(-step / 180.0)) + 0.03
            noise = float(np.exp(0.25 * generator.standard_normal()))
            row = {"epoch": step // 30, "step": step, "wall_s": round(0.2 * step, 2)}
            row |= {"train/loss": 3 * decay * noise, "train/forces_loss": 2 * decay * noise, "train/energy_loss": decay}
            row |= {"train/learning_rate": 5e-3 * min(step / 60, 0.5 + 0.5 * np.cos(np.pi * step / NUM_STEPS))}
            if step % 30 == 0:
                row |= {"val/loss": 2.6 * decay, "val/enantiomers/handedness_auc": 0.96 - 0.45 * decay}
                row |= {f"val/{name}": start * decay + end for name, (start, end) in _VALIDATION.items()}
            writer.writerow(row)


def _predictions(generator: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    energy = generator.normal(-70.0, 22.0, 60)
    forces = generator.standard_t(3, (4000, 3)) * 0.9
    dipole = generator.normal(0.0, 1.1, (60, 3))
    hands = generator.integers(0, 2, 90).astype(float)
    sites = (generator.random(800) < 0.08).astype(float)
    noisy = {
        "energy": (energy, 0.05),
        "energy_per_atom": (energy / 22, 0.0023),
        "forces": (forces, 0.045),
        "dipole": (dipole, 0.03),
    }
    regression = {}
    for name, (target, error) in noisy.items():
        regression[f"{name}__target"] = target
        regression[f"{name}__prediction"] = target + error * generator.standard_t(4, target.shape)
    regression["energy__composition"] = energy + generator.normal(0.0, 1.1, energy.shape)
    regression["energy_per_atom__composition"] = regression["energy__composition"] / 22
    return {
        "spice/dipeptides": regression,
        "enantiomers": {
            "handedness__target": hands,
            "handedness__prediction": 4 * hands - 2 + 1.6 * generator.standard_normal(90),
            "site_of_metabolism__target": sites,
            "site_of_metabolism__prediction": 3 * sites - 3 + 1.4 * generator.standard_normal(800),
        },
    }


def _errors(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, object]]:
    units = {"energy": "eV", "energy_per_atom": "eV/atom", "forces": "eV/Å", "dipole": "e·Å"}
    errors: dict[str, dict[str, object]] = {}
    for name, unit in units.items():
        if f"{name}__target" in arrays:
            residual = arrays[f"{name}__prediction"] - arrays[f"{name}__target"]
            mae, rmse = float(np.abs(residual).mean()), float(np.sqrt((residual**2).mean()))
            errors[name] = {"mae": mae, "rmse": rmse, "count": residual.size, "unit": unit}
    if "handedness__target" in arrays:
        right = (arrays["handedness__prediction"] > 0) == (arrays["handedness__target"] > 0)
        errors["handedness"] = {"auc": 0.962, "accuracy": float(right.mean()), "mcc": 0.79, "count": 90, "unit": "1"}
        errors["site_of_metabolism"] = {"auc": 0.93, "mcc": 0.5, "top1": 0.55, "top2": 0.69, "top3": 0.78, "count": 800}
    return errors


def _summary() -> dict[str, object]:
    return {
        "data": {
            "spice/dipeptides": {
                "counts": {"train": 900, "val": 50, "test": 60},
                "elements": ["H", "C", "N", "O", "S"],
                "properties": {"energy": 1010, "forces": 22220, "dipole": 1010},
                "level_of_theory": "ωB97M-D3(BJ)/def2-TZVPPD",
                "licence": "CC0-1.0",
                "source": "spice/dipeptides.extxyz",
            },
            "enantiomers": {
                "counts": {"train": 700, "val": 90, "test": 90},
                "elements": ["H", "C", "N", "O", "F", "Cl"],
                "properties": {"handedness": 880, "site_of_metabolism": 9100},
                "level_of_theory": None,
                "licence": "Apache-2.0",
                "source": "embedded",
            },
        },
        "model": {
            "parameters": {"backbone": 181_234, "heads.energy": 4_225, "heads.dipole": 8_450, "electrostatics": 12},
            "cutoff_A": 5.0,
            "config": {"backbone": {"kind": "equivariant", "channels": 32, "num_layers": 2}, "elements": [1, 6, 7, 8]},
        },
        "reference_energies": {
            "ωB97M-D3(BJ)/def2-TZVPPD": {
                "values": {"H": -13.5721, "C": -1035.2714, "N": -1488.1123, "O": -2045.7102, "S": -10836.2},
                "how": "ridge least squares over the 900 training structures; isolated atoms were not given",
            }
        },
        "environment": {"foundation": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "cpu": "x86_64", "threads": 2},
        "timing": {"train_s": 245.3, "structures_per_s": 96.2, "evaluate_s": 4.1},
        "tasks": RECIPE["tasks"],
        "init": {
            "loaded": [f"backbone.layers.{index}.weight" for index in range(24)],
            "new": ["heads.energy.weight", "heads.dipole.weight"],
            "skipped": ["heads.denoising.weight"],
            "extended": {"backbone.embedding.weight": {"new": ["S"], "dropped": ["Br"]}},
            "new_elements": ["S"],
            "parity": {"position_noise": {"largest": 0.31, "difference": 2.2e-8}},
            "unchecked": {"energy": "its head is new"},
        },
    }


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A finished run with a pretraining stage."""
    run = write_finished_run(tmp_path / "finished", seed=0)
    pretraining = run / "pretrain"
    pretraining.mkdir()
    with (pretraining / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "wall_s", "train/loss", "val/mols/position_noise_mae_A"])
        for step in range(1, 301):
            value = 0.9 * np.exp(-step / 90) + 0.3
            writer.writerow([step // 30, step, 0.1 * step, value, value / 20 if step % 30 == 0 else ""])
    return run
