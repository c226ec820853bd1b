"""Optimizers behind one configuration: which parameters decay, and at which rate each moves."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

import torch
from pydantic import Field
from torch import nn

from foundation.config import Config
from foundation.model import FoundationModel
from foundation.nn.linear import EquivariantLinear, ScaledLinear, UniformLinear
from foundation.training.muon import MuonAdamW
from foundation.training.sharing import share_steps
from foundation.training.soap import SoapAdamW


class AdamWConfig(Config):
    """AdamW (Loshchilov and Hutter, ICLR 2019).

    Attributes:
        learning_rate: At the top of the schedule.
        weight_decay: Decoupled, times the learning rate; on matrices only, never on biases, norms or embeddings.
        betas: Decay of the running mean and of the running square.
        epsilon: Added to the root of the running square.
    """

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    epsilon: float = Field(default=1e-8, gt=0)


class MuonConfig(Config):
    """Muon on matrices, AdamW on everything else.

    Attributes:
        learning_rate: Of both; Muon's update is scaled to the size of AdamW's.
        weight_decay: As for AdamW.
        momentum: Of Muon (Nesterov).
        betas: Of AdamW.
        epsilon: Of AdamW.
    """

    kind: Literal["muon"] = "muon"
    learning_rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    epsilon: float = Field(default=1e-8, gt=0)


class SoapConfig(Config):
    """SOAP on matrices, AdamW on everything else.

    Attributes:
        learning_rate: Of both.
        weight_decay: As for AdamW.
        betas: Of both; the second is also that of the covariances.
        epsilon: Of both.
        frequency: Steps between two updates of the eigenbases.
        largest_side: Longer sides of a matrix are left in their own axes.
    """

    kind: Literal["soap"] = "soap"
    learning_rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.95, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    frequency: int = Field(default=10, ge=1)
    largest_side: int = Field(default=128, ge=1)


OptimizerConfig = Annotated[AdamWConfig | MuonConfig | SoapConfig, Field(discriminator="kind")]

SMALLEST_SIDE = 4
"""Matrices thinner than this (readouts to one number) are vectors in disguise: AdamW moves them."""


def split_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Part trainable parameters into matrices, the weights of linear layers, and everything else.

    Returns:
        Matrices (or batches of them) and others, by name; embeddings, scales, norms and biases are others.
    """
    weights: set[int] = set()
    for module in model.modules():
        if isinstance(module, ScaledLinear | UniformLinear | nn.Linear):
            weights.add(id(module.weight))
        elif isinstance(module, EquivariantLinear):
            weights.update(id(weight) for weight in module.weights)
    matrices, others = {}, {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if id(parameter) in weights else others)[name] = parameter
    return matrices, others


def build_optimizer(model: FoundationModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters of `model` that require a gradient."""
    optimizer = uncoupled_optimizer(model, config)
    share_steps(optimizer, model, sharing=model.backbone.level_sharing)
    return optimizer


def uncoupled_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The same for any module; weights of each level of theory move by themselves."""
    matrices, others = split_parameters(model)
    match config:
        case AdamWConfig():
            groups = [
                {"params": list(matrices.values()), "weight_decay": config.weight_decay},
                {"params": list(others.values()), "weight_decay": 0.0},
            ]
            return torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=config.betas,
                eps=config.epsilon,
            )
        case MuonConfig():
            wide, thin = _by_width(matrices)
            return MuonAdamW(
                matrices=wide,
                decayed=thin,
                others=list(others.values()),
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                betas=config.betas,
                epsilon=config.epsilon,
            )
        case SoapConfig():
            wide, thin = _by_width(matrices)
            return SoapAdamW(
                matrices=wide,
                decayed=thin,
                others=list(others.values()),
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                betas=config.betas,
                epsilon=config.epsilon,
                frequency=config.frequency,
                largest_side=config.largest_side,
            )
        case _:
            assert_never(config)


def _by_width(matrices: dict[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    wide = [parameter for parameter in matrices.values() if min(parameter.shape[-2:]) >= SMALLEST_SIDE]
    thin = [parameter for parameter in matrices.values() if min(parameter.shape[-2:]) < SMALLEST_SIDE]
    return wide, thin
