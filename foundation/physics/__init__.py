"""Physics of pairs of atoms that needs no training: nuclear repulsion and dispersion."""

from foundation.physics.dispersion import D3Dispersion, DispersionConfig, DispersionResult
from foundation.physics.zbl import ZBLConfig, ZBLRepulsion

__all__ = ["D3Dispersion", "DispersionConfig", "DispersionResult", "ZBLConfig", "ZBLRepulsion"]
