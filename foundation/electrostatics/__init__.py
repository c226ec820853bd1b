"""Long-range electrostatics from the model's charges."""

from foundation.electrostatics.charged import CellCautions, charged_cells, describe_charged
from foundation.electrostatics.config import ElectrostaticsConfig
from foundation.electrostatics.interaction import Interaction, InteractionConfig
from foundation.electrostatics.sources import Potential, Sources

__all__ = [
    "CellCautions",
    "ElectrostaticsConfig",
    "Interaction",
    "InteractionConfig",
    "Potential",
    "Sources",
    "charged_cells",
    "describe_charged",
]
