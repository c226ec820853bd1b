"""`Objective`: what produces a loss from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from foundation.data.graph import AtomGraph
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES
from foundation.training.losses import LossSum

CLEAN_VIEW = "clean"
"""The batch as it was loaded."""


class Objective(nn.Module, ABC):
    """A loss over a batch, in three steps: prepare a view of it, let the model predict, compare.

    Objectives that share a view share one forward pass; each prepares it in turn.

    Attributes:
        name: As in the recipe; the loss is logged as `{stage}/{name}_loss`.
        predicts: Property that it compares.
        weight: Factor in the total loss.
        view: Name of the view; `clean` is the batch as loaded.
        every: Active in every n-th training step only.
    """

    datasets: Tensor

    def __init__(
        self,
        *,
        name: str,
        predicts: str,
        weight: float,
        view: str,
        every: int,
        data: Sequence[str] | None,
        dataset_names: Sequence[str],
    ) -> None:
        """Set what all objectives have.

        Args:
            data: Data sets whose entries count; None for all.
            dataset_names: All data sets in order of `dataset_index`.

        Raises:
            InputError: `data` names an unknown data set.
        """
        super().__init__()
        unknown = [dataset for dataset in data or () if dataset not in dataset_names]
        if unknown:
            raise InputError(f"'{name}': unknown data sets {unknown}; known: {', '.join(dataset_names)}")
        self.name, self.predicts, self.weight, self.view, self.every = name, predicts, weight, view, every
        counts = [data is None or dataset in data for dataset in dataset_names]
        self.register_buffer("datasets", torch.tensor(counts, dtype=torch.bool), persistent=False)

    @abstractmethod
    def prepare(self, batch: AtomGraph, generator: torch.Generator) -> AtomGraph:
        """Make the view; never changes `batch`.

        Args:
            batch: As loaded, or as another objective of the same view prepared it.
            generator: On the CPU; the only source of randomness.
        """

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: AtomGraph, model: FoundationModel) -> LossSum:
        """Compare predictions with labels.

        Args:
            outputs: Physical units; holds `predicts`.
            batch: The prepared view.
            model: For the scale of normalised residuals.
        """

    def wants(self, batch: AtomGraph) -> bool:
        """Whether the prepared view holds any label to compare with; known without waiting for the device."""
        return self.predicts in batch.masks

    def entries(self, batch: AtomGraph) -> Bool[Tensor, " rows"]:
        """Graphs or atoms that are labelled and belong to a data set of this objective."""
        allowed = self.datasets[batch.dataset_index]
        if PROPERTIES[self.predicts].level == "atom":
            allowed = allowed[batch.graph_index]
        return batch.masks[self.predicts] & allowed
