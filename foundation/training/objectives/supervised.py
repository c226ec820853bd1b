"""Supervised tasks: predictions against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.model import FoundationModel
from foundation.properties import get_property
from foundation.training.losses import (
    BceConfig,
    CrossEntropyConfig,
    LossConfig,
    LossSum,
    binary_loss,
    check_loss,
    class_loss,
    default_loss,
    regression_loss,
)
from foundation.training.objectives.base import CLEAN_VIEW, Objective


class SupervisedConfig(Config):
    """A task: a property of some data sets.

    Attributes:
        property: What is learnt.
        data: Data sets whose labels count; None for all that carry the property.
        weight: Factor of this task in the total loss.
        loss: None for the property's default.
    """

    kind: Literal["supervised"] = "supervised"
    property: str
    data: tuple[str, ...] | None = None
    weight: float = Field(gt=0)
    loss: LossConfig | None = None


class SupervisedObjective(Objective):
    """Compares a predicted property with its labels; energies per atom."""

    def __init__(self, *, name: str, config: SupervisedConfig, dataset_names: Sequence[str]) -> None:
        """Check the loss against the property.

        Raises:
            InputError: Unknown property or data set, or a loss that cannot judge the property.
        """
        prop = get_property(config.property)
        super().__init__(
            name=name,
            predicts=prop.name,
            weight=config.weight,
            view=CLEAN_VIEW,
            every=1,
            data=config.data,
            dataset_names=dataset_names,
        )
        self.loss_config = config.loss or default_loss(prop)
        check_loss(self.loss_config, prop, where=f"task '{name}'")

    def prepare(self, batch: AtomGraph, generator: torch.Generator) -> AtomGraph:  # noqa: ARG002
        """The batch itself."""
        return batch

    def loss(self, outputs: Mapping[str, Tensor], batch: AtomGraph, model: FoundationModel) -> LossSum:
        """Sum the loss of normalised residuals over labelled entries."""
        prediction, target = outputs[self.predicts], batch.targets[self.predicts]
        mask = self.entries(batch)
        if isinstance(self.loss_config, BceConfig):
            return binary_loss(self.loss_config, prediction, target, mask)
        if isinstance(self.loss_config, CrossEntropyConfig):
            return class_loss(self.loss_config, prediction, target, mask)
        residual = prediction - target.to(prediction.dtype)
        if self.predicts == "energy":
            residual = residual / batch.num_atoms_per_graph
        return regression_loss(self.loss_config, residual / model.scaling.scale(self.predicts).to(residual.dtype), mask)
