"""The cost of one size of model, and of several as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foundation.backbones import BackboneConfig
from foundation.compilation import CompiledModel
from foundation.cost.measure import count_gflop, median_ms, peak_mbyte
from foundation.cost.structures import aspirin_molecules, water_box
from foundation.cost.work import build_model, energy_and_forces, held_tensors, labelled_graph, training_step
from foundation.data.graph import AtomGraph, collate
from foundation.model import FoundationModel

__all__ = ["Cost", "PassCost", "cost_of", "describe_costs"]

STEP_MOLECULES = 8
WATER_MOLECULES_PER_SIDE = 4
REPETITIONS = 9
MAX_SECONDS = 10.0
"""Of one timing; a large model is repeated less often."""


@dataclass(frozen=True)
class PassCost:
    """Of one input.

    Attributes:
        atoms: In the input.
        gflop: 10⁹ floating-point operations of matrix products, in the eager model.
        milliseconds: Median wall time.
        repetitions: Of which it is the median.
    """

    atoms: int
    gflop: float
    milliseconds: float
    repetitions: int

    @property
    def us_per_atom(self) -> float:
        """Wall time an atom, µs."""
        return 1e3 * self.milliseconds / self.atoms


@dataclass(frozen=True)
class Cost:
    """Of one size.

    Attributes:
        name: The recipe.
        parameters: Of backbone and energy head.
        cutoff: Å.
        molecule: Energy and forces of one aspirin.
        step: A training step on `STEP_MOLECULES` aspirins.
        step_peak_mbyte: Most 10⁶ bytes in tensors during that step, in the eager model.
        box: Energy and forces of a periodic box of 192 atoms of water.
    """

    name: str
    parameters: int
    cutoff: float
    molecule: PassCost
    step: PassCost
    step_peak_mbyte: float
    box: PassCost


def cost_of(name: str, backbone: BackboneConfig, *, device: torch.device, compiled: bool) -> Cost:
    """Measure one size.

    Args:
        name: What to call it.
        backbone: Its shape.
        device: Where.
        compiled: Whether times are of the compiled model; operations and memory are of the eager one.

    Raises:
        InputError: It is to be compiled and cannot be.
    """
    molecules = aspirin_molecules(STEP_MOLECULES)
    model = build_model(backbone, molecules).to(device)
    graphs = [labelled_graph(atoms, cutoff=backbone.cutoff) for atoms in molecules]
    box = labelled_graph(water_box(WATER_MOLECULES_PER_SIDE), cutoff=backbone.cutoff)
    one, batch, water = (collate(part).to(str(device)) for part in (graphs[:1], graphs, [box]))
    forward = CompiledModel(model) if compiled else model
    molecule = _inference(model, forward, one, device)
    water_cost = _inference(model, forward, water, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    eager = training_step(model, batch, optimizer, autocast=None)
    gflop = count_gflop(eager)
    optimizer.zero_grad(set_to_none=True)
    peak = peak_mbyte(eager, device=device, held=held_tensors(model, optimizer, batch))
    timed = training_step(forward, batch, optimizer, autocast=None)
    milliseconds, repetitions = median_ms(timed, device=device, repetitions=REPETITIONS, max_seconds=MAX_SECONDS)
    step = PassCost(len(batch.positions), gflop, milliseconds, repetitions)
    return Cost(name, model.num_parameters, model.cutoff, molecule, step, peak, water_cost)


def _inference(
    model: FoundationModel, forward: FoundationModel | CompiledModel, batch: AtomGraph, device: torch.device
) -> PassCost:
    gflop = count_gflop(energy_and_forces(model, batch))
    work = energy_and_forces(forward, batch)
    milliseconds, repetitions = median_ms(work, device=device, repetitions=REPETITIONS, max_seconds=MAX_SECONDS)
    return PassCost(len(batch.positions), gflop, milliseconds, repetitions)


_HEADS = (
    ("", "", "aspirin, 21 atoms", "", "", f"step, {STEP_MOLECULES} aspirins", "", "", "water, 192 atoms", "", ""),
    ("size", "parameters", "GFLOP", "ms", "µs/atom", "GFLOP", "ms", "peak MB", "GFLOP", "ms", "µs/atom"),
)


def describe_costs(costs: Sequence[Cost]) -> str:
    """A table for people, one line a size."""
    rows = [_row(cost) for cost in costs]
    widths = [max(len(row[column]) for row in (_HEADS[1], *rows)) for column in range(len(_HEADS[1]))]
    lines = [_group_line(widths)]
    for row in (_HEADS[1], *rows):
        name, *figures = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([name, *figures]))
    return "\n".join(lines)


def _group_line(widths: Sequence[int]) -> str:
    """Titles of groups of columns, each where its group begins."""
    line, start = "", 0
    for title, width in zip(_HEADS[0], widths, strict=True):
        if title:
            line = line.ljust(start) + ("  " if line else "") + title
        start += width + 2
    return line


def _row(cost: Cost) -> tuple[str, ...]:
    molecule, step, box = cost.molecule, cost.step, cost.box
    return (
        cost.name,
        f"{cost.parameters:,}",
        *(f"{molecule.gflop:.3f}", f"{molecule.milliseconds:.1f}", f"{molecule.us_per_atom:.0f}"),
        *(f"{step.gflop:.2f}", f"{step.milliseconds:.1f}", f"{cost.step_peak_mbyte:.0f}"),
        *(f"{box.gflop:.2f}", f"{box.milliseconds:.0f}", f"{box.us_per_atom:.0f}"),
    )
