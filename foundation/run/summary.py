"""`summary.json`: what a run was made of, for the report, the model card and people."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ase.data import chemical_symbols

from foundation.config import to_dict
from foundation.run.ending import Ending
from foundation.run.plan import Plan, label_count
from foundation.run.timing import Timing
from foundation.threads import ALLOCATOR_SWITCH

__all__ = ["summarise"]

_PACKAGES = (
    "foundation",
    "torch",
    "lightning",
    "torch-geometric",
    "e3nn",
    "numpy",
    "ase",
    "rdkit",
    "datasets",
    "vesin",
)


def summarise(plan: Plan, *, timing: Timing, ending: Ending, kept: str, threads: int) -> dict[str, Any]:
    """Describe a finished run.

    Args:
        plan: What ran.
        timing: How long.
        ending: Where it stopped.
        kept: Which weights became the model, in words.
        threads: Of the CPU.
    """
    seconds = timing.train_s
    return {
        "data": {name: _dataset(plan, name) for name in plan.data.dataset_names},
        "model": {
            "parameters": _parameters(plan),
            "cutoff_A": plan.model.cutoff,
            "mean_neighbors": plan.scaling.mean_neighbors,
            "weights": kept,
            "config": to_dict(plan.model.config),
        },
        "reference_energies": _reference_energies(plan),
        "scales": {name: float(plan.model.scaling.scale(name)) for name in plan.model.scaling.names},
        "tasks": {name: to_dict(task) for name, task in plan.recipe.tasks.items()},
        "init": None if plan.init is None else plan.init.to_dict(),
        "environment": environment(threads=threads),
        "training": ending.to_dict(),
        "timing": {
            "train_s": seconds,
            "structures": timing.structures,
            "structures_per_s": timing.structures / seconds if seconds > 0 else 0.0,
        },
    }


def environment(*, threads: int) -> dict[str, Any]:
    """Versions and machine."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    found["platform"] = platform.platform()
    found["cpu"] = _cpu_name()
    found["threads"] = threads
    found["allocator"] = os.environ.get(ALLOCATOR_SWITCH, "keeps freed memory")
    found["accelerator"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def _dataset(plan: Plan, name: str) -> dict[str, Any]:
    data, store, resolved = plan.data, plan.data.stores[name], plan.data.resolved[name]
    splits = data.splits(name)
    return {
        "counts": {split: len(data.graphs(name, split)) for split in splits},
        "elements": [chemical_symbols[number] for number in store.elements],
        "properties": {
            prop: sum(label_count(data, name, split, prop) for split in splits) for prop in store.properties
        },
        "level_of_theory": resolved.level_of_theory,
        "licence": resolved.licence,
        "source": ", ".join(file.path.name for file in resolved.files),
        "resolved": resolved.model_dump(mode="json"),
    }


def _parameters(plan: Plan) -> dict[str, int]:
    parts = {"backbone": plan.model.backbone, **{f"head {name}": head for name, head in plan.model.heads.items()}}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}


def _reference_energies(plan: Plan) -> dict[str, Any]:
    if "energy" not in plan.model.properties:
        return {}
    table = plan.model.scaling.reference_energies
    return {
        level: {
            "values": {
                chemical_symbols[number]: float(table[index, number])
                for number in plan.model.config.elements
                if bool(torch.isfinite(table[index, number]))
            },
            "how": plan.model.scaling.provenance.get(level, "taken over from the model that it started from"),
        }
        for index, level in enumerate(plan.model.config.levels)
    }
