"""Backbones: `AtomGraph -> Features`. A new one is a file, a line in `BackboneConfig` and one in `build_backbone`."""

from foundation.backbones.equivariant import EquivariantBackbone, EquivariantConfig
from foundation.backbones.registry import Backbone, BackboneConfig, build_backbone
from foundation.backbones.visnet import VisnetBackbone, VisnetConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "EquivariantBackbone",
    "EquivariantConfig",
    "VisnetBackbone",
    "VisnetConfig",
    "build_backbone",
]
