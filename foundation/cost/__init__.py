"""What a size of model costs: parameters, operations, memory, time."""

from foundation.cost.measure import count_gflop, median_ms, peak_mbyte
from foundation.cost.sizes import Cost, PassCost, cost_of, describe_costs
from foundation.cost.structures import aspirin_molecules, water_box
from foundation.cost.work import build_model, energy_and_forces, held_tensors, labelled_graph, training_step

__all__ = [
    "Cost",
    "PassCost",
    "aspirin_molecules",
    "build_model",
    "cost_of",
    "count_gflop",
    "describe_costs",
    "energy_and_forces",
    "held_tensors",
    "labelled_graph",
    "median_ms",
    "peak_mbyte",
    "training_step",
    "water_box",
]
