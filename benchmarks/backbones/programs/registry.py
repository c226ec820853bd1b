"""Model row -> program."""

from __future__ import annotations

from benchmarks.backbones.programs.base import Program
from benchmarks.backbones.programs.mace import Mace
from benchmarks.backbones.programs.nequip import Nequip
from benchmarks.backbones.programs.ours import Ours
from benchmarks.backbones.rows import FoundationModelRow, MaceModelRow, NequipModelRow

__all__ = ["RIVALS", "program_of"]

RIVALS = {"mace": "mace-torch", "nequip": "nequip"}
"""Name of the environment -> package on PyPI."""


def program_of(model: FoundationModelRow | MaceModelRow | NequipModelRow) -> Program:
    """The program that a model's settings belong to."""
    match model:
        case FoundationModelRow():
            return Ours(model)
        case MaceModelRow():
            return Mace(model)
        case NequipModelRow():
            return Nequip(model)
