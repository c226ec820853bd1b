"""Learning-rate schedules, by optimizer steps: linear warm-up, then cosine, linear or constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR

from foundation.config import Config
from foundation.errors import InputError


class ScheduleConfig(Config):
    """How the learning rate goes, as a factor of the optimizer's.

    Attributes:
        kind: What follows the warm-up.
        warmup_steps: Optimizer steps of linear rise from almost zero, fewer than the run; None for `warmup_fraction`.
        warmup_fraction: The same as a share of the run's steps.
        final_fraction: Factor at the last step (not for `constant`).
        total_steps: Optimizer steps to reach it; None for the length of the run.
    """

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    final_fraction: float = Field(default=0.01, ge=0, le=1)
    total_steps: int | None = Field(default=None, ge=1)


def schedule_factor(config: ScheduleConfig, total_steps: int | float) -> Callable[[int], float]:
    """Give the factor of the learning rate for each step, counted from zero.

    Args:
        config: The schedule; its own `total_steps` wins.
        total_steps: Length of the run; infinite if nothing but time bounds it.

    Raises:
        InputError: The run has no known length but the schedule needs one, or warm-up is as long as the run.
    """
    total = config.total_steps or total_steps
    if math.isinf(total) and (config.kind != "constant" or config.warmup_steps is None):
        raise InputError(
            f"schedule: kind '{config.kind}' needs the length of the run: set trainer.max_epochs or trainer.max_steps, "
            "or schedule.total_steps (a constant schedule needs schedule.warmup_steps instead)"
        )
    warmup = int(config.warmup_fraction * total) if config.warmup_steps is None else config.warmup_steps
    if warmup >= total:
        raise InputError(f"schedule.warmup_steps: {warmup}; allowed: fewer than the {int(total)} steps of the run")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.kind == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
        remaining = 0.5 * (1 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1 - progress
        return config.final_fraction + (1 - config.final_fraction) * remaining

    return factor


def build_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, total_steps: int | float) -> LambdaLR:
    """Attach the schedule to an optimizer; step it once an optimizer step.

    Raises:
        InputError: As `schedule_factor`.
    """
    return LambdaLR(optimizer, schedule_factor(config, total_steps))
