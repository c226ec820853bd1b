"""Long-range electrostatics from the model's charges."""

from foundation.electrostatics.coulomb import CoulombConfig, CoulombEnergy
from foundation.electrostatics.interaction import Interaction, InteractionConfig, charged_cells
from foundation.electrostatics.sources import Potential, Sources

__all__ = [
    "CoulombConfig",
    "CoulombEnergy",
    "Interaction",
    "InteractionConfig",
    "Potential",
    "Sources",
    "charged_cells",
]
