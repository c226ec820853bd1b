"""Long-range electrostatics from the model's charges."""

from foundation.electrostatics.coulomb import CoulombConfig, CoulombEnergy

__all__ = ["CoulombConfig", "CoulombEnergy"]
