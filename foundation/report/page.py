"""Writing report.html: gather what the run left, draw it, fill the template, replace the old page in one step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from foundation.report import sections
from foundation.report.classification import (
    Classification,
    classifications,
    draw_confusion,
    draw_roc,
    draw_top_k,
)
from foundation.report.curves import Panel, curve_panels, draw_panel
from foundation.report.error_tables import SplitErrors, error_tables
from foundation.report.history import stage_label
from foundation.report.parity import Parity, caption, draw_parity, parities, residual_summary
from foundation.report.quantities import count, number, percent, property_label
from foundation.report.run_files import RunFiles, mapping, read_run

_MAX_TILES = 8


@dataclass(frozen=True)
class Tile:
    """One best figure of the headline."""

    value: str
    unit: str
    label: str
    beside: str


@dataclass(frozen=True)
class Figure:
    """A drawing with the words around it."""

    title: str
    drawing: Markup
    caption: str
    legend: tuple[tuple[str, int, bool], ...] = ()


def write_report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write a run's report: one HTML file that needs no network and no other file.

    Args:
        run_dir: A run directory, finished, running or interrupted; what is missing is said in the report.
        out: Where to write; ``report.html`` in the run directory if None.

    Returns:
        The path written.

    Raises:
        InputError: ``run_dir`` is not a run directory.
        OSError: The page cannot be written; an older page stays as it was.
    """
    run = read_run(run_dir)
    page = render(run)
    path = run_dir / "report.html" if out is None else out
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(run: RunFiles) -> str:
    """The page as text."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    classified = [result for found in run.predictions for result in classifications(found)]
    tables = error_tables(run, classified)
    init_facts, init_lists = sections.init_lists(run)
    return environment.get_template("template.html").render(
        name=run.path.resolve().name,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        opening=sections.opening_sentence(run),
        state=sections.state_sentence(run),
        is_finished=run.is_finished,
        notes=(*run.missing, *run.problems),
        tiles=_tiles(tables, run),
        tables=tables,
        parities=_parity_figures(run),
        classifications=_classification_figures(run, classified),
        curves=_curve_figures(run),
        pretraining=None if run.pretraining is None else _pretraining(run.pretraining),
        data=sections.data_table(run),
        tasks=sections.task_table(run),
        objectives=sections.objective_table(run),
        parameters=sections.parameter_table(run),
        scales=sections.scale_table(run),
        model_facts=sections.model_facts(run),
        model_config=sections.model_config(run),
        reference_energies=sections.reference_energies(run),
        init_facts=init_facts,
        init_parity=sections.init_parity_table(run),
        init_lists=init_lists,
        environment=sections.environment_facts(run),
        timing=sections.timing_facts(run),
        recipe=run.recipe_text,
        number=number,
        percent=percent,
        stage_label=stage_label,
    )


def _pretraining(run: RunFiles) -> dict[str, object]:
    return {
        "opening": sections.opening_sentence(run),
        "state": sections.reached_sentence(run),
        "notes": run.problems,
        "objectives": sections.objective_table(run),
        "tasks": sections.task_table(run),
        "data": sections.data_table(run),
        "curves": _curve_figures(run),
        "tables": error_tables(run, []),
        "recipe": run.recipe_text,
    }


def shown_split(run: RunFiles) -> str | None:
    """The split whose predictions are drawn: test if there is one, else validation, else training."""
    there = {found.split for found in run.predictions}
    return next((split for split in ("test", "val", "train") if split in there), None)


def _tiles(tables: list[SplitErrors], run: RunFiles) -> list[Tile]:
    """Errors of the first split that was evaluated; while nothing was, the best validation errors so far."""
    if not tables:
        found = []
        for panel in curve_panels(run.history):
            for label, value, step in panel.best:
                words = f"{label}; best validation so far, step {count(step)}"
                found.append(Tile(number(value), panel.unit, panel.title, words))
        return found[:_MAX_TILES]
    split = stage_label(tables[0].split)
    tiles: list[tuple[str, Tile]] = []
    with_energy_per_atom = {row.dataset for row in tables[0].errors if row.property_name == "energy_per_atom"}
    for row in tables[0].errors:
        is_double = row.property_name == "energy" and row.dataset in with_energy_per_atom
        if row.mae is None or not row.is_learnt or is_double:
            continue
        guess = "by composition" if row.baseline_name == "composition" else row.baseline_name
        beside = row.dataset if row.share is None else f"{row.dataset}; {percent(row.share)} of guessing {guess}"
        tile = Tile(row.unit.show(row.mae), row.unit.label, f"{row.label} MAE, {split}", beside)
        tiles.append((row.property_name, tile))
    for score in tables[0].scores:
        if not score.scores:
            continue
        given = dict(score.scores)
        name = next((name for name in ("top-2", "accuracy") if name in given), score.scores[0][0])
        guess = (
            f"; the commoner class alone: {percent(score.baseline)}" if name == "accuracy" and score.baseline else ""
        )
        tile = Tile(given[name], "", f"{score.label} {name}, {split}", f"{score.dataset}{guess}")
        tiles.append((score.property_name, tile))
    if len(tiles) > _MAX_TILES:
        first = {}
        for property_name, tile in tiles:
            first.setdefault(property_name, tile)
        return list(first.values())[:_MAX_TILES]
    return [tile for _, tile in tiles]


def _curve_figures(run: RunFiles) -> list[Figure]:
    return [_curve_figure(panel) for panel in curve_panels(run.history)]


def _curve_figure(panel: Panel) -> Figure:
    bests = [
        f"{label} {number(value)} {panel.unit}".strip() + f" at step {count(step)}" for label, value, step in panel.best
    ]
    words = f"Best: {', '.join(bests)}." if bests else ""
    legend = tuple((line.label, line.colour, line.is_faint) for line in panel.lines) if len(panel.lines) > 1 else ()
    return Figure(panel.title, draw_panel(panel), words, legend)


def _parity_figures(run: RunFiles) -> list[Figure]:
    split = shown_split(run)
    found: list[Parity] = [p for chosen in run.predictions if chosen.split == split for p in parities(chosen)]
    return [
        Figure(
            f"{property_label(parity.property_name)} · {parity.dataset}",
            draw_parity(parity),
            f"{caption(parity)} {residual_summary(parity)}",
        )
        for parity in found
    ]


def _classification_figures(run: RunFiles, classified: list[Classification]) -> list[tuple[str, list[Figure]]]:
    split = shown_split(run)
    groups = []
    for result in classified:
        if result.split != split:
            continue
        name = f"{property_label(result.property_name)} · {result.dataset} · {stage_label(result.split)}"
        figures = []
        curve = draw_roc(result)
        if curve is not None:
            figures.append(Figure("ROC curve", curve, "The dashed diagonal is guessing."))
        words = (
            f"{percent(result.accuracy)} right; always naming the commoner class gives {percent(result.majority)}. "
            "Percentages in the cells are of the true class."
        )
        figures.append(Figure("Confusion matrix", draw_confusion(result), words))
        judged = mapping(run.evaluation.get(result.split))
        metrics = mapping(mapping(judged.get(result.dataset)).get(result.property_name))
        bars = draw_top_k(metrics, description=f"How often a true site is among the first k atoms, {name}")
        if bars is not None:
            words = "Share of molecules with a true site among the k atoms ranked first."
            figures.append(Figure("Ranking within a molecule", bars, words))
        groups.append((name, figures))
    return groups
