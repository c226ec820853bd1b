"""Heads: `(Features, AtomGraph) -> dict[str, Tensor]`, one file each."""

from foundation.heads.base import Head
from foundation.heads.registry import HeadConfig, build_head, check_head, default_head, predictable

__all__ = ["Head", "HeadConfig", "build_head", "check_head", "default_head", "predictable"]
