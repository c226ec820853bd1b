"""Coordinate denoising: displace all atoms by noise, ask the model for the displacement. Needs no labels.

Source: Zaidi et al., ICLR 2023 (arXiv 2206.00133): learning the noise is learning the forces of a mixture of Gaussians
around the data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.data.neighbors import rebuild_neighbors
from foundation.model import FoundationModel
from foundation.training.losses import LossSum, MseConfig, RegressionLossConfig, regression_loss
from foundation.training.objectives.base import Objective


class DenoisingConfig(Config):
    """Coordinate denoising.

    Attributes:
        sigma: Standard deviation of the noise in each direction, Å.
        data: Data sets whose atoms count; None for all.
        weight: Factor in the total loss.
        loss: On the noise over `sigma`.
        view: Objectives with the same view share one forward pass over one corrupted batch.
        every: Active in every n-th training step only.
    """

    kind: Literal["denoising"] = "denoising"
    sigma: float = Field(default=0.04, gt=0)
    data: tuple[str, ...] | None = None
    weight: float = Field(gt=0)
    loss: RegressionLossConfig = MseConfig()
    view: str = "corrupted"
    every: int = Field(default=1, ge=1)


class DenoisingObjective(Objective):
    """Predicts the noise that displaced each atom."""

    def __init__(self, *, name: str, config: DenoisingConfig, cutoff: float, dataset_names: Sequence[str]) -> None:
        """Take the cutoff of the model, Å: neighbours are found anew after displacing."""
        super().__init__(
            name=name,
            predicts="position_noise",
            weight=config.weight,
            view=config.view,
            every=config.every,
            data=config.data,
            dataset_names=dataset_names,
        )
        self.sigma, self.loss_config, self.cutoff = config.sigma, config.loss, cutoff

    def prepare(self, batch: AtomGraph, generator: torch.Generator) -> AtomGraph:
        """Displace atoms; each structure's mean displacement is zero, so that no translation is asked for."""
        noise = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64).to(batch.positions.device)
        noise = centered(noise * self.sigma, batch)
        view = copy.copy(batch)
        view.positions = batch.positions + noise
        view.targets = {**batch.targets, "position_noise": noise}
        view.masks = {**batch.masks, "position_noise": torch.ones_like(batch.graph_index, dtype=torch.bool)}
        return rebuild_neighbors(view, self.cutoff)

    def loss(self, outputs: Mapping[str, Tensor], batch: AtomGraph, model: FoundationModel) -> LossSum:  # noqa: ARG002
        """Compare in units of sigma."""
        prediction = outputs["position_noise"]
        residual = (prediction - batch.targets["position_noise"].to(prediction.dtype)) / self.sigma
        return regression_loss(self.loss_config, residual, self.entries(batch))


def centered(vectors: Float[Tensor, "atoms 3"], batch: AtomGraph) -> Float[Tensor, "atoms 3"]:
    """Take each structure's mean away."""
    sums = torch.zeros(batch.num_graphs, 3, dtype=vectors.dtype, device=vectors.device)
    sums.index_add_(0, batch.graph_index, vectors)
    means = sums / batch.num_atoms_per_graph[:, None]
    return vectors - means[batch.graph_index]
