"""Exponential moving average of the weights: kept beside the raw ones, used for validation, saved and restored.

Lightning's own `EMAWeightAveraging` averages the whole module, buffers included (ours hold NaN where a reference energy
is unknown), and leaves the averaged weights in place of the raw ones when training ends; so this is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pydantic import Field
from torch import Tensor, nn

from foundation.config import Config


class EmaConfig(Config):
    """Average of the weights over about `1 / (1 - decay)` steps.

    Attributes:
        decay: Reached after a warm-up: after n steps it is min(decay, (1 + n) / (10 + n)).
    """

    decay: float = Field(default=0.999, gt=0, lt=1)


class WeightAverage(Callback):
    """Keeps the average of a model's parameters; buffers are shared with the raw model.

    Attributes:
        model: Whose parameters are averaged.
        num_updates: Optimizer steps averaged so far.
        average: Parameter name -> averaged value, empty before training began.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.model = model
        self.decay = config.decay
        self.num_updates = 0
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def state(self) -> dict[str, Tensor]:
        """The model's whole state with averaged parameters; the raw state before training began."""
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        state.update({name: value.clone() for name, value in self.average.items()})
        return state

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged parameters into the model for a while."""
        self._swap_in()
        try:
            yield
        finally:
            self._swap_out()

    @torch.no_grad()
    def _swap_in(self) -> None:
        if not self.average or self._raw is not None:
            return
        self._raw = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.average[name])

    @torch.no_grad()
    def _swap_out(self) -> None:
        if self._raw is None:
            return
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self._raw[name])
        self._raw = None

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Begin at the model's weights, or where the checkpoint left off, on the model's device."""
        restored = self.average
        self.average = {
            name: restored.get(name, parameter).detach().to(parameter.device, copy=True)
            for name, parameter in self.model.named_parameters()
        }

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Follow the raw weights after each optimizer step."""
        if trainer.global_step <= self.num_updates:
            return
        self.num_updates = trainer.global_step
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            list(self.average.values()), [parameters[name].detach() for name in self.average], 1 - decay
        )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validate the averaged weights."""
        self._swap_in()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Train on with the raw weights."""
        self._swap_out()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Leave the raw weights in the model if validation was interrupted."""
        self._swap_out()

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        assert self._raw is None, "a checkpoint was asked for while the averaged weights were in the model"
        return {"num_updates": self.num_updates, "average": self.average}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where the checkpoint left off."""
        self.num_updates = int(state_dict["num_updates"])
        self.average = {name: value.clone() for name, value in state_dict["average"].items()}
