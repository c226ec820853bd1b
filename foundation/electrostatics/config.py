"""What a model is told about electrostatics."""

from __future__ import annotations

from typing import Literal

from foundation.electrostatics.feedback import FeedbackConfig
from foundation.electrostatics.interaction import InteractionConfig

__all__ = ["ElectrostaticsConfig"]


class ElectrostaticsConfig(InteractionConfig):
    """Add the energy of the model's charges and atomic dipoles to its energy; docs/electrostatics.md says when.

    Attributes:
        latent: Learn the charges from energies and forces alone. Without it a recipe has to have a task on dipoles,
            partial charges or Born charges. It is a published method under a pending patent, whose reference code is
            licensed for non-commercial use only; what is here was written from the physics: docs/electrostatics.md.
        feedback: Let the potential and field of the charges change the features that heads read; None for charges whose
            energy is only added at the end.
    """

    kind: Literal["coulomb"] = "coulomb"
    latent: bool = False
    feedback: FeedbackConfig | None = None
