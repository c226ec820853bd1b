"""Molecules labelled with GFN2-xTB and with R or S: the embedded data set and larger ones of its kind."""

from __future__ import annotations

from foundation.data.generate.generate import (
    GEOMETRIES_FILE,
    HANDEDNESS_FILE,
    SHIPPED_NUM_GEOMETRIES,
    SHIPPED_NUM_HANDEDNESS,
    SHIPPED_SEED,
    generate,
)

__all__ = [
    "GEOMETRIES_FILE",
    "HANDEDNESS_FILE",
    "SHIPPED_NUM_GEOMETRIES",
    "SHIPPED_NUM_HANDEDNESS",
    "SHIPPED_SEED",
    "generate",
]
