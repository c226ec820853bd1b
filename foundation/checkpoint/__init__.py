"""Models on disk: saved, loaded, and used as the start of another model."""

from __future__ import annotations

from foundation.checkpoint.card import CardInfo
from foundation.checkpoint.directory import CheckpointConfig, load, load_directory, save_model
from foundation.checkpoint.initialise import InitReport, initialise_from

__all__ = [
    "CardInfo",
    "CheckpointConfig",
    "InitReport",
    "initialise_from",
    "load",
    "load_directory",
    "save_model",
]
