"""What the report says in tables and lists: data, tasks, model, reference energies, initialisation, environment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from foundation.report.quantities import (
    as_float,
    count,
    duration,
    error_unit,
    large_count,
    number,
    percent,
    property_label,
)
from foundation.report.run_files import RunFiles, mapping

_SPLITS = ("train", "val", "test")
_TENSOR_FATES = {
    "loaded": "Loaded from the source",
    "extended": "Loaded in part, elements or levels of theory differ",
    "new": "New",
    "skipped": "In the source, not used",
}
_TASK_COLUMNS = ("property", "data", "weight", "head", "loss")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: What it lists; read out before the rows.
        header: Column titles.
        rows: Cells as text; the first of each row is its header.
        numeric: Indices of columns that hold numbers.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ReferenceEnergies:
    """Energies of single atoms at one level of theory.

    Attributes:
        level: The level of theory.
        how: How they were obtained.
        values: Element symbol and energy, eV, as text.
    """

    level: str
    how: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameList:
    """Tensors of one fate at initialisation: loaded, new or skipped."""

    title: str
    count: str
    names: tuple[str, ...]


def data_table(run: RunFiles) -> Table | None:
    """One row a data set: structures per split, elements, labels, level of theory, licence and source."""
    datasets = {name: mapping(entry) for name, entry in mapping(run.summary.get("data")).items()}
    if not datasets:
        return None
    logged = {split for entry in datasets.values() for split in mapping(entry.get("counts"))}
    splits = [split for split in _SPLITS if split in logged] + sorted(logged - set(_SPLITS))
    rows = []
    for name, entry in datasets.items():
        counts = mapping(entry.get("counts"))
        labels = [f"{property_label(key)} {count(value)}" for key, value in mapping(entry.get("properties")).items()]
        rows.append(
            (
                name,
                *(count(counts.get(split, 0)) for split in splits),
                plain(entry.get("elements")),
                ", ".join(labels) or "–",
                *(plain(entry.get(key)) for key in ("level_of_theory", "licence", "source")),
            )
        )
    header = ("data set", *splits, "elements", "labels", "level of theory", "licence", "source")
    return Table("Structures and labels of each data set", header, tuple(rows), frozenset(range(1, 1 + len(splits))))


def task_table(run: RunFiles) -> Table | None:
    """One row a task, from the summary, else from the recipe."""
    entries = run.tasks
    columns = [column for column in _TASK_COLUMNS if any(entry.get(column) is not None for entry in entries.values())]
    if not columns:
        return None
    rows = []
    for name, entry in entries.items():
        words = {**entry, "property": property_label(str(entry.get("property", name)))}
        rows.append((name, *(plain(words.get(column)) for column in columns)))
    numeric = frozenset(index + 1 for index, column in enumerate(columns) if column == "weight")
    return Table("What is learnt from which data", ("task", *columns), tuple(rows), numeric)


def objective_table(run: RunFiles) -> Table | None:
    """One row an objective that stands beside the tasks."""
    objectives = {name: mapping(entry) for name, entry in mapping(run.recipe.get("objectives")).items()}
    if not objectives:
        return None
    rows = []
    for name, entry in objectives.items():
        settings = {key: value for key, value in entry.items() if key not in ("kind", "weight") and value is not None}
        rows.append((name, plain(entry.get("kind")), plain(entry.get("weight")), plain(settings)))
    return Table(
        "Objectives beside the tasks", ("objective", "kind", "weight", "settings"), tuple(rows), frozenset({2})
    )


def num_parameters(run: RunFiles) -> int | None:
    """All parameters of the model, or None where the summary does not say."""
    parts = _parameters(run)
    given = mapping(mapping(run.summary.get("model")).get("parameters")).get("total")
    return given if isinstance(given, int) else sum(parts.values()) if parts else None


def parameter_table(run: RunFiles) -> Table | None:
    """Parameters of each part of the model."""
    parts = _parameters(run)
    if not parts:
        return None
    total = max(sum(parts.values()), 1)
    rows = [(name, count(size), percent(size / total)) for name, size in parts.items()]
    rows.append(("all", count(num_parameters(run)), ""))
    return Table("Trainable parameters by part", ("part", "parameters", "share"), tuple(rows), frozenset({1, 2}))


def _parameters(run: RunFiles) -> dict[str, int]:
    given = mapping(mapping(run.summary.get("model")).get("parameters"))
    return {name: size for name, size in given.items() if isinstance(size, int) and name != "total"}


def model_facts(run: RunFiles) -> list[tuple[str, str]]:
    """What is said of the model beside its parameters: cutoff and other short entries of the summary."""
    entries = {k: v for k, v in mapping(run.summary.get("model")).items() if k not in ("parameters", "config")}
    names = {"cutoff_A": "cutoff (Å)"}
    return [(names.get(key, property_label(key)), plain(value)) for key, value in entries.items()]


def scale_table(run: RunFiles) -> Table | None:
    """What residuals of each property are divided by before they become a loss."""
    scales = mapping(run.summary.get("scales"))
    rows = []
    for name, value in scales.items():
        unit = error_unit("energy_per_atom" if name == "energy" else name)
        rows.append((property_label(name), unit.show(as_float(value)), unit.label))
    return (
        Table("Scales that losses are measured in", ("property", "scale", "unit"), tuple(rows), frozenset({1}))
        if rows
        else None
    )


def model_config(run: RunFiles) -> str | None:
    """The model's configuration as indented JSON."""
    config = mapping(run.summary.get("model")).get("config")
    return json.dumps(config, indent=2, ensure_ascii=False, default=str) if config else None


def reference_energies(run: RunFiles) -> list[ReferenceEnergies]:
    """Energies of single atoms for each level of theory."""
    found = []
    for level, entry in mapping(run.summary.get("reference_energies")).items():
        values = mapping(mapping(entry).get("values"))
        shown = tuple((element, _energy(value)) for element, value in values.items())
        found.append(ReferenceEnergies(level, plain(mapping(entry).get("how")), shown))
    return found


def _energy(value: object) -> str:
    energy = as_float(value)
    return (
        "–"
        if energy is None
        else f"{energy:,.4f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    )


def init_lists(run: RunFiles) -> tuple[list[tuple[str, str]], list[NameList]]:
    """What the initialisation from another model did: short facts, and the tensors of each fate."""
    given = mapping(run.summary.get("init"))
    source = mapping(run.recipe.get("init")).get("from")
    facts = [("from", plain(source))] if given and source is not None else []
    lists = []
    for key, value in given.items():
        if key in _TENSOR_FATES and isinstance(value, list | tuple | dict):
            names = tuple(_named(value))
            lists.append(NameList(_TENSOR_FATES[key], count(len(names)), names))
        elif key != "parity" and value not in (None, [], {}):
            facts.append((property_label(key), plain(value)))
    return facts, lists


def init_parity_table(run: RunFiles) -> Table | None:
    """How far predictions differ from the source's before the first step."""
    rows = tuple(
        (property_label(name), *(number(as_float(mapping(entry).get(key))) for key in ("largest", "difference")))
        for name, entry in mapping(mapping(run.summary.get("init")).get("parity")).items()
    )
    header = ("property", "largest prediction", "largest difference")
    return (
        Table("Predictions before the first step against the source’s", header, rows, frozenset({1, 2}))
        if rows
        else None
    )


def _named(value: list[object] | tuple[object, ...] | dict[object, object]) -> Iterable[str]:
    if isinstance(value, dict) and "kind" in value:
        settings = {key: entry for key, entry in value.items() if key != "kind" and entry is not None}
        return f"{value['kind']} ({plain(settings)})" if settings else str(value["kind"])
    if isinstance(value, dict):
        return (f"{name}: {plain(reason)}" for name, reason in value.items())
    return (plain(entry) for entry in value)


def environment_facts(run: RunFiles) -> list[tuple[str, str]]:
    """Versions and machine."""
    return [(property_label(key), plain(value)) for key, value in mapping(run.summary.get("environment")).items()]


def timing_facts(run: RunFiles) -> list[tuple[str, str]]:
    """How long what took, and how fast; names that end in ``_s`` are seconds unless they end in ``_per_s``."""
    facts = []
    for key, value in mapping(run.summary.get("timing")).items():
        seconds = as_float(value)
        if seconds is not None and key.endswith("_per_s"):
            facts.append((property_label(key.removesuffix("_per_s")) + " per second", number(seconds)))
        elif seconds is not None and key.endswith("_s"):
            facts.append((property_label(key.removesuffix("_s")), duration(seconds)))
        else:
            facts.append((property_label(key), plain(value)))
    return facts


def plain(value: object) -> str:
    """A value from JSON or YAML as short text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
    if isinstance(value, dict) and "kind" in value:
        settings = {key: entry for key, entry in value.items() if key != "kind" and entry is not None}
        return f"{value['kind']} ({plain(settings)})" if settings else str(value["kind"])
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(plain(entry) for entry in value) or "–"
    return str(value)


def opening_sentence(run: RunFiles) -> str:
    """What was trained, on what, for what: one sentence from what is known so far."""
    size = num_parameters(run)
    model = "A model" if size is None else f"A model of {large_count(size)} parameters"
    datasets = {name: mapping(entry) for name, entry in mapping(run.summary.get("data")).items()}
    names = list(datasets) or list(mapping(run.recipe.get("data")))
    learnt = dict.fromkeys(str(task.get("property", name)) for name, task in run.tasks.items())
    properties = [property_label(name) for name in learnt]
    total = sum(n for entry in datasets.values() if isinstance(n := mapping(entry.get("counts")).get("train"), int))
    text = model
    if properties:
        text += f" of {_listed(properties)}" if size is None else f" for {_listed(properties)}"
    if names:
        text += f", trained on {_listed(names)}"
    if total:
        text += f" ({count(total)} training structures)"
    return "" if text == "A model" else text + "."


def state_sentence(run: RunFiles) -> str:
    """How far the run has come, and whether it ended."""
    reached, took = _reached(run)
    training = mapping(run.summary.get("training"))
    if training.get("stopped_by") == "max_time":
        steps, planned = training.get("steps"), training.get("planned_steps")
        return f"Cut short by max_time{took}: {count(steps)} of {count(planned)} planned steps; resume with more time."
    if run.is_finished:
        return f"Finished{took} ({reached})."
    return f"Not finished: still running, or interrupted; last seen at {reached}{took}."


def reached_sentence(run: RunFiles) -> str:
    """How far a stage has come that need not be evaluated."""
    reached, took = _reached(run)
    return f"It reached {reached}{took}."


def _reached(run: RunFiles) -> tuple[str, str]:
    history = run.history
    reached = f"step {count(history.last_step)}" if history.last_step else "no step logged yet"
    if history.last_epoch is not None:
        reached += f", epoch {count(history.last_epoch)}"
    seconds = as_float(mapping(run.summary.get("timing")).get("train_s")) or history.wall_s
    took = f" after {duration(seconds)} of training" if seconds else ""
    return reached, took


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
