"""Charge models: how the total charge of a structure is distributed over its atoms."""

from foundation.electrostatics.charges.distribution import ChargeModel, Distribution
from foundation.electrostatics.charges.equilibration import EquilibrationConfig
from foundation.electrostatics.charges.moments import Moments, field_energy
from foundation.electrostatics.charges.redistributed import RedistributedConfig
from foundation.electrostatics.charges.registry import ChargeModelConfig, build_charge_model

__all__ = [
    "ChargeModel",
    "ChargeModelConfig",
    "Distribution",
    "EquilibrationConfig",
    "Moments",
    "RedistributedConfig",
    "build_charge_model",
    "field_energy",
]
