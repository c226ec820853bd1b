"""The model card: `README.md` of a model directory, written from the model and from what its run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from foundation.elements import element_names
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES

Json = Mapping[str, Any]


@dataclass(frozen=True)
class CardInfo:
    """What a model card says beyond what the model itself knows.

    Attributes:
        title: Name of the model or of its run.
        summary: The run's `summary.json`: the sections `data`, `timing`, `environment`, `tasks` and `init` are used
            where they exist.
        evaluation: The run's `evaluation.json`: split -> data set -> property -> figures.
    """

    title: str
    summary: Json = field(default_factory=dict)
    evaluation: Json = field(default_factory=dict)


def write_card(model: FoundationModel, path: Path, *, info: CardInfo) -> None:
    """Write the model card of `model` to `path`."""
    sections = [
        f"# {info.title}",
        "A model trained with `foundation`: a shared equivariant backbone with one head a task.",
        _scope(model, info.summary),
        _usage(model),
        _errors(info.evaluation),
        _training(model, info.summary),
        _reference_energies(model),
        "## Limits\n\nStated errors hold for data like those that it was tested on. It refuses elements that it has "
        "never seen, and does not know how sure it is of the rest: check energies and forces on a few structures of "
        "your own before you rely on them.",
    ]
    header = "---\nlibrary_name: foundation\ntags: [chemistry, materials, molecular-dynamics]\n---\n\n"
    path.write_text(header + "\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _learnt(summary: Json) -> frozenset[str]:
    """Properties of the run's tasks; empty if it is not known which run made the model."""
    return frozenset(task["property"] for task in summary.get("tasks", {}).values())


def _head(model: FoundationModel, property_name: str) -> str:
    """The kind of the head that gives a property, or whose output it is the derivative of."""
    kind = model.head_kind(property_name)
    if kind is not None:
        return kind
    base = PROPERTIES[property_name].derived_from
    assert base is not None, property_name
    return f"{model.head_kind(base)} (derivative of {base})"


def _scope(model: FoundationModel, summary: Json) -> str:
    learnt = _learnt(summary) & model.properties or model.properties
    properties = [
        (name, PROPERTIES[name].description, PROPERTIES[name].unit, PROPERTIES[name].level, _head(model, name))
        for name in sorted(learnt)
    ]
    rest = ", ".join(f"{name} ({_head(model, name)})" for name in sorted(model.properties - learnt))
    unlearnt = f"\n\nThe heads also give, though no task of the run learnt it: {rest}." if rest else ""
    elements = element_names(model.config.elements)
    return (
        "## What it predicts\n\n"
        + _table(("property", "meaning", "unit", "of each", "head"), properties)
        + unlearnt
        + f"\n\n- Elements: {elements}\n- Levels of theory: {', '.join(model.config.levels)}\n"
        f"- Cutoff: {model.cutoff:g} Å\n"
        f"- Parameters: {sum(parameter.numel() for parameter in model.parameters()):,}\n"
        "- Units: eV, Å, e; stress is (1/V) dE/dε, tension positive; dipoles of ions are about the centre of mass"
    )


def _usage(model: FoundationModel) -> str:
    level = f', level="{model.config.levels[0]}"' if len(model.config.levels) > 1 else ""
    return (
        "## How to use it\n\n"
        "```python\nimport foundation\n\n"
        'model = foundation.load("this/directory")\n'
        f'print(model.predict("CCO"{level}))\n\n'
        "from foundation.calculators.ase import FoundationCalculator\n\n"
        'atoms.info.update(total_charge=0, spin_multiplicity=1)\natoms.calc = FoundationCalculator("this/directory"'
        f"{level})\n```"
    )


def _errors(evaluation: Json) -> str:
    rows = [
        (split, dataset, name, _figures(figures))
        for split, datasets in evaluation.items()
        for dataset, properties in datasets.items()
        for name, figures in properties.items()
    ]
    return "## Errors\n\n" + _table(("split", "data", "property", "figures"), rows) if rows else ""


def _figures(figures: Json) -> str:
    unit = figures.get("unit", "1")
    parts = []
    for key, value in figures.items():
        if isinstance(value, float):
            parts.append(f"{key} {value:.4g}" + (f" {unit}" if key in {"mae", "rmse"} and unit != "1" else ""))
        elif key == "count":
            parts.append(f"{value} labels")
    return ", ".join(parts)


def _training(model: FoundationModel, summary: Json) -> str:
    rows = [
        (
            name,
            ", ".join(f"{count} {split}" for split, count in data.get("counts", {}).items()),
            str(data.get("level_of_theory", "not stated")),
            str(data.get("licence") or "not stated"),
            str(data.get("source") or "not stated"),
        )
        for name, data in summary.get("data", {}).items()
    ]
    parts = []
    if rows:
        parts.append(_table(("data", "structures", "level of theory", "licence", "source"), rows))
    tasks = [
        (name, task["property"], _head(model, task["property"]), ", ".join(task["data"]), f"{task['weight']:g}")
        for name, task in summary.get("tasks", {}).items()
    ]
    if tasks:
        parts.append(_table(("task", "property", "head", "data", "weight"), tasks))
    facts = [
        f"- {name}: {_fact(summary[name])}"
        for name in ("init", "timing", "environment")
        if summary.get(name) not in (None, {}, [])
    ]
    if facts:
        parts.append("\n".join(facts))
    return "## Training\n\n" + "\n\n".join(parts) if parts else ""


def _fact(value: object) -> str:
    """One line for any JSON value; what is null is left out."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_fact(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_fact(inner) for inner in value) if len(value) <= 8 else f"{len(value)} entries"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _reference_energies(model: FoundationModel) -> str:
    """Energies of atoms that the model's energies are counted from, level by level, and how they were obtained."""
    if "energy" not in model.properties:
        return ""
    known = model.scaling.reference_energies
    lines = []
    for index, level in enumerate(model.config.levels):
        values = [
            f"{chemical_symbols[number]} {float(known[index, number]):.6f}"
            for number in sorted(model.config.elements)
            if not torch.isnan(known[index, number])
        ]
        lines.append(f"- {level}: {', '.join(values) if values else 'none'}")
    provenance = model.scaling.provenance
    how = "\n\nHow they and the scales were obtained: " + _fact(provenance) if provenance else ""
    return "## Reference energies (eV)\n\n" + "\n".join(lines) + how
