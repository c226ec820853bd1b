"""Masked atoms: hide the element of some atoms, ask the model which it was. Needs no labels.

Source: Hu et al., ICLR 2020 (arXiv 1905.12265), attribute masking.
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
from foundation.training.losses import CrossEntropyConfig, LossSum, class_loss
from foundation.training.objectives.base import Objective

HIDDEN_ATOMIC_NUMBER = 0
"""What stands in place of a hidden element; models have a place for it beside their elements."""


class MaskedAtomsConfig(Config):
    """Masked-atom prediction.

    Attributes:
        fraction: Share of atoms that are hidden, each independently.
        data: Data sets whose atoms count; None for all.
        weight: Factor in the total loss.
        loss: Over the model's elements.
        view: Objectives with the same view share one forward pass over one corrupted batch.
        every: Active in every n-th training step only.
    """

    kind: Literal["masked_atoms"] = "masked_atoms"
    fraction: float = Field(default=0.15, gt=0, lt=1)
    data: tuple[str, ...] | None = None
    weight: float = Field(gt=0)
    loss: CrossEntropyConfig = CrossEntropyConfig()
    view: str = "corrupted"
    every: int = Field(default=1, ge=1)


class MaskedAtomsObjective(Objective):
    """Predicts the element of hidden atoms."""

    class_of: Tensor

    def __init__(
        self, *, name: str, config: MaskedAtomsConfig, elements: Sequence[int], dataset_names: Sequence[str]
    ) -> None:
        """Take the model's elements, in order of its logits."""
        super().__init__(
            name=name,
            predicts="masked_element",
            weight=config.weight,
            view=config.view,
            every=config.every,
            data=config.data,
            dataset_names=dataset_names,
        )
        self.fraction, self.loss_config = config.fraction, config.loss
        class_of = torch.zeros(max(elements) + 1, dtype=torch.int64)
        class_of[list(elements)] = torch.arange(len(elements))
        self.register_buffer("class_of", class_of, persistent=False)

    def prepare(self, batch: AtomGraph, generator: torch.Generator) -> AtomGraph:
        """Hide atoms; their element becomes the label."""
        chance = torch.rand(batch.atomic_numbers.shape, generator=generator)
        hidden = (chance < self.fraction).to(batch.positions.device)
        view = copy.copy(batch)
        view.atomic_numbers = torch.where(hidden, HIDDEN_ATOMIC_NUMBER, batch.atomic_numbers)
        view.targets = {**batch.targets, "masked_element": self.class_of[batch.atomic_numbers]}
        view.masks = {**batch.masks, "masked_element": hidden}
        return view

    def loss(self, outputs: Mapping[str, Tensor], batch: AtomGraph, model: FoundationModel) -> LossSum:  # noqa: ARG002
        """Cross entropy at hidden atoms."""
        logits = outputs["masked_element"]
        return class_loss(self.loss_config, logits, batch.targets["masked_element"], self.entries(batch))
