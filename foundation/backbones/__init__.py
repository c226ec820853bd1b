"""Backbones: `AtomGraph -> Features`. A new one is a file, a line in `BackboneConfig` and one in `build_backbone`."""

from foundation.backbones.equivariant import EquivariantBackbone, EquivariantConfig
from foundation.backbones.registry import BackboneConfig, build_backbone

__all__ = ["BackboneConfig", "EquivariantBackbone", "EquivariantConfig", "build_backbone"]
