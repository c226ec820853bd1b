"""Long-range electrostatics from the model's charges."""

from foundation.electrostatics.config import ElectrostaticsConfig
from foundation.electrostatics.interaction import Interaction, InteractionConfig, charged_cells
from foundation.electrostatics.sources import Potential, Sources

__all__ = [
    "ElectrostaticsConfig",
    "Interaction",
    "InteractionConfig",
    "Potential",
    "Sources",
    "charged_cells",
]
