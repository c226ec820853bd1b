"""Local charges: what `redistributed` charges miss of the total charge, and share out over all atoms, is to be nothing.

A molecule's charges then stay its own beside another far away. Needs no labels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.model import FoundationModel
from foundation.training.losses import HuberConfig, LossSum, regression_loss
from foundation.training.objectives.base import CLEAN_VIEW, Objective

SCALE = 0.05
"""e for one atom, growing with the square root of their number: the loss is quadratic below it, linear above."""


class LocalChargesConfig(Config):
    """Charges that add up by themselves.

    Attributes:
        data: Data sets whose structures count; None for all.
        weight: Factor in the total loss.
    """

    kind: Literal["local_charges"] = "local_charges"
    data: tuple[str, ...] | None = None
    weight: float = Field(gt=0)


class LocalChargesObjective(Objective):
    """Asks for a missing charge of zero, in the batch as it was loaded."""

    def __init__(self, *, name: str, config: LocalChargesConfig, dataset_names: Sequence[str]) -> None:
        super().__init__(
            name=name,
            predicts="missing_charge",
            weight=config.weight,
            view=CLEAN_VIEW,
            every=1,
            data=config.data,
            dataset_names=dataset_names,
        )

    def prepare(self, batch: AtomGraph, generator: torch.Generator) -> AtomGraph:  # noqa: ARG002
        """The batch, and zero as every structure's label."""
        view = copy.copy(batch)
        view.targets = {**batch.targets, "missing_charge": torch.zeros_like(batch.total_charge, dtype=torch.float64)}
        view.masks = {**batch.masks, "missing_charge": torch.ones_like(batch.total_charge, dtype=torch.bool)}
        return view

    def loss(self, outputs: Mapping[str, Tensor], batch: AtomGraph, model: FoundationModel) -> LossSum:  # noqa: ARG002
        """Huber loss of the missing charge over `SCALE` and the square root of the number of atoms."""
        residual = outputs["missing_charge"] / (SCALE * batch.num_atoms_per_graph.sqrt())
        return regression_loss(HuberConfig(), residual, self.entries(batch))
