"""The visible union of backbones."""

from __future__ import annotations

from typing import Annotated, assert_never

from pydantic import Field

from foundation.backbones.equivariant import EquivariantBackbone, EquivariantConfig
from foundation.backbones.visnet import VisnetBackbone, VisnetConfig

Backbone = EquivariantBackbone | VisnetBackbone
"""What every backbone is: it maps `AtomGraph` to `Features` and has `layout`, `cutoff`, `edge_fields`,
`mean_neighbors`, `recomputes` and `level_sharing`."""

BackboneConfig = Annotated[EquivariantConfig | VisnetConfig, Field(discriminator="kind")]
"""All backbones. A new one is a file, a line here and one in `build_backbone`."""


def build_backbone(config: BackboneConfig, *, elements: tuple[int, ...], num_levels: int) -> Backbone:
    """Make a backbone with fresh weights."""
    match config:
        case EquivariantConfig():
            return EquivariantBackbone(config, elements=elements, num_levels=num_levels)
        case VisnetConfig():
            return VisnetBackbone(config, elements=elements, num_levels=num_levels)
        case _:
            assert_never(config)
