"""Losses under masks: each gives a sum over labelled entries and their count, so that means hold across ranks.

An entry is one graph or one atom that carries the label. Regression losses act on residuals that were divided by the
property's scale; those of vectors and matrices do not depend on the orientation, except `mae`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from foundation.config import Config
from foundation.errors import InputError
from foundation.properties import Property


class MseConfig(Config):
    """Squared residual, averaged over the components of an entry."""

    kind: Literal["mse"] = "mse"


class MaeConfig(Config):
    """Absolute residual, averaged over the components of an entry."""

    kind: Literal["mae"] = "mae"


class HuberConfig(Config):
    """Huber loss of the residual's length: quadratic for small ones, linear for large ones.

    Attributes:
        delta: Where the one goes over into the other, in units of the property's scale.
    """

    kind: Literal["huber"] = "huber"
    delta: float = Field(default=1.0, gt=0)


class NormConfig(Config):
    """Length of the residual: the Euclidean norm of a vector, the Frobenius norm of a matrix ("force norm")."""

    kind: Literal["norm"] = "norm"


class BceConfig(Config):
    """Binary cross entropy; the prediction is the logit of the positive class, a label above zero is positive.

    Attributes:
        positive_weight: How many times a positive entry counts in the sum.
    """

    kind: Literal["bce"] = "bce"
    positive_weight: float = Field(default=1.0, gt=0)


class CrossEntropyConfig(Config):
    """Cross entropy over classes; the prediction holds one logit a class, the label is the class's index.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


LossConfig = Annotated[
    MseConfig | MaeConfig | HuberConfig | NormConfig | BceConfig | CrossEntropyConfig, Field(discriminator="kind")
]
RegressionLossConfig = Annotated[MseConfig | MaeConfig | HuberConfig | NormConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class LossSum:
    """A loss before it is averaged.

    Attributes:
        total: Sum over the labelled entries of this rank's batch; differentiable.
        count: Their number, on the device, same dtype as `total`.
    """

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]


def default_loss(prop: Property) -> LossConfig:
    """The loss of a task that names none."""
    if prop.name == "masked_element":
        return CrossEntropyConfig()
    if prop.kind == "classification":
        return BceConfig()
    if prop.form != "scalar":
        return NormConfig()
    return MaeConfig() if prop.name == "energy" else HuberConfig()


def check_loss(config: LossConfig, prop: Property, *, where: str) -> None:
    """Refuse a loss that cannot judge a property.

    Raises:
        InputError: The kinds that can are named.
    """
    if prop.name == "masked_element":
        allowed: tuple[str, ...] = ("cross_entropy",)
    elif prop.kind == "classification":
        allowed = ("bce",)
    else:
        allowed = ("mse", "mae", "huber", "norm")
    if config.kind not in allowed:
        raise InputError(
            f"{where}: loss '{config.kind}' cannot judge property '{prop.name}' ({prop.kind}, {prop.form}); "
            f"losses that can: {', '.join(allowed)}"
        )


def regression_loss(
    config: RegressionLossConfig,
    residual: Float[Tensor, "rows ..."],
    mask: Bool[Tensor, " rows"],
) -> LossSum:
    """Sum a regression loss over labelled rows.

    Args:
        config: Which loss.
        residual: Prediction minus label over scale; rows that are not labelled are ignored, whatever they hold.
        mask: Which rows are labelled.
    """
    flat = residual.reshape(len(residual), -1)
    flat = torch.where(mask[:, None], flat, torch.zeros((), dtype=flat.dtype, device=flat.device))
    match config:
        case MseConfig():
            rows = flat.square().mean(dim=1)
        case MaeConfig():
            rows = flat.abs().mean(dim=1)
        case HuberConfig():
            length = _length(flat)
            rows = functional.huber_loss(length, torch.zeros_like(length), reduction="none", delta=config.delta)
        case NormConfig():
            rows = _length(flat)
        case _:
            assert_never(config)
    return LossSum(rows.sum(), mask.sum().to(rows.dtype))


def _length(flat: Float[Tensor, "rows components"]) -> Float[Tensor, " rows"]:
    """Euclidean length whose gradient at zero is zero (torch's own subgradient there), not NaN."""
    return torch.linalg.vector_norm(flat, dim=1) if flat.shape[1] > 1 else flat[:, 0].abs()


def binary_loss(
    config: BceConfig,
    logits: Float[Tensor, " rows"],
    labels: Tensor,
    mask: Bool[Tensor, " rows"],
) -> LossSum:
    """Sum binary cross entropy over labelled rows.

    Args:
        config: Weight of positives.
        logits: Logit of the positive class.
        labels: `[rows]`; above zero is positive.
        mask: Which rows are labelled.
    """
    positive = (labels > 0).to(logits.dtype)
    rows = functional.binary_cross_entropy_with_logits(
        logits, positive, reduction="none", pos_weight=logits.new_full((), config.positive_weight)
    )
    rows = torch.where(mask, rows, torch.zeros((), dtype=rows.dtype, device=rows.device))
    return LossSum(rows.sum(), mask.sum().to(rows.dtype))


def class_loss(
    config: CrossEntropyConfig,
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, " rows"],
    mask: Bool[Tensor, " rows"],
) -> LossSum:
    """Sum cross entropy over labelled rows.

    Args:
        config: Label smoothing.
        logits: One a class.
        labels: Index of the class; any valid index where not labelled.
        mask: Which rows are labelled.
    """
    rows = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
    rows = torch.where(mask, rows, torch.zeros((), dtype=rows.dtype, device=rows.device))
    return LossSum(rows.sum(), mask.sum().to(rows.dtype))
