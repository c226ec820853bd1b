"""The visible union of backbones."""

from __future__ import annotations

from foundation.backbones.equivariant import EquivariantBackbone, EquivariantConfig

BackboneConfig = EquivariantConfig
"""All backbones: a union discriminated by `kind` as soon as there are two."""


def build_backbone(config: BackboneConfig, *, elements: tuple[int, ...], num_levels: int) -> EquivariantBackbone:
    """Make a backbone with fresh weights; it maps `AtomGraph` to `Features` and has `layout` and `cutoff`."""
    return EquivariantBackbone(config, elements=elements, num_levels=num_levels)
