"""The visible union of charge models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from foundation.electrostatics.charges.distribution import ChargeModel
from foundation.electrostatics.charges.equilibration import Equilibration, EquilibrationConfig
from foundation.electrostatics.charges.redistributed import Redistributed, RedistributedConfig
from foundation.electrostatics.interaction import Interaction
from foundation.errors import InputError
from foundation.nn.features import FeatureLayout

__all__ = ["ChargeModelConfig", "build_charge_model"]

ChargeModelConfig = Annotated[RedistributedConfig | EquilibrationConfig, Field(discriminator="kind")]
"""All charge models. A new one is a file and a line here and one in `build_charge_model`."""


def build_charge_model(
    config: ChargeModelConfig,
    layout: FeatureLayout,
    *,
    hidden: int,
    atomic_dipoles: bool,
    interaction: Interaction | None,
) -> ChargeModel:
    """Make a charge model with fresh weights.

    Args:
        config: Which.
        layout: Of the features that it reads.
        hidden: Width of its readouts.
        atomic_dipoles: Whether atoms carry dipoles beside charges.
        interaction: Of the model's charges; None in a model without electrostatics.

    Raises:
        InputError: Charge equilibration without an interaction.
    """
    match config:
        case RedistributedConfig():
            return Redistributed(config, layout, hidden=hidden, atomic_dipoles=atomic_dipoles)
        case EquilibrationConfig():
            if interaction is None:
                raise InputError(
                    "charge model 'qeq' minimises an energy that holds the interaction of the charges; the model has "
                    "no electrostatics; allowed: model.electrostatics: {kind: coulomb}, or charge model 'redistributed'"
                )
            return Equilibration(config, layout, hidden=hidden, atomic_dipoles=atomic_dipoles, interaction=interaction)
