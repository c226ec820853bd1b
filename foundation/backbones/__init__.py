"""Backbones: `AtomGraph -> Features`. A new one is a file and a line in `BackboneConfig` and `build_backbone`."""

from foundation.backbones.equivariant import EquivariantBackbone, EquivariantConfig

__all__ = ["EquivariantBackbone", "EquivariantConfig"]
