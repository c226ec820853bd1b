"""SOAP for matrices and batches of matrices: Adam in the slowly turning eigenbasis of the gradients' covariances.

Source: Vyas et al., arXiv 2409.11321 (ICLR 2025), algorithm 3; sides longer than `largest_side` keep their own axes,
as in section 6.1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foundation.training.matrix_optimizer import MatrixOptimizer, where_moved

__all__ = ["SoapAdamW"]


class SoapAdamW(MatrixOptimizer):
    """SOAP on `matrices`, AdamW on `decayed` (with weight decay) and `others` (without).

    The first step of a matrix only measures its covariances.
    """

    def __init__(
        self,
        *,
        matrices: Sequence[nn.Parameter],
        decayed: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
        frequency: int,
        largest_side: int,
    ) -> None:
        """Take the parameters in three groups, as `MatrixOptimizer`."""
        super().__init__(
            matrices=matrices,
            decayed=decayed,
            others=others,
            weight_decay=weight_decay,
            defaults={
                "lr": learning_rate,
                "betas": betas,
                "eps": epsilon,
                "frequency": frequency,
                "largest_side": largest_side,
            },
        )

    def _move_matrices(self, group: dict[str, Any], moving: list[nn.Parameter]) -> None:
        for parameter in moving:
            self._soap_step(group, parameter)

    def _soap_step(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(-1, *parameter.shape[-2:])
        if "step" not in state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for side, name in ((-2, "left"), (-1, "right")):
                if gradient.shape[side] <= group["largest_side"]:
                    state[f"{name}_covariance"] = _covariance(gradient, side)
                    state[f"{name}_basis"] = torch.linalg.eigh(state[f"{name}_covariance"]).eigenvectors
            return
        state["step"] += 1
        turned = _turn(gradient, state)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(turned.square(), 1 - beta2)
        corrections = 1 - beta1 ** state["step"], (1 - beta2 ** state["step"]) ** 0.5
        update = _turn(state["mean"], state) / (state["square"].sqrt() / corrections[1] + group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = _turn_back(update, state) * where_moved(gradient)
        parameter.add_(update.view_as(parameter), alpha=-group["lr"] / corrections[0])
        for side, name in ((-2, "left"), (-1, "right")):
            if f"{name}_basis" not in state:
                continue
            state[f"{name}_covariance"].lerp_(_covariance(gradient, side), 1 - beta2)
            if state["step"] % group["frequency"] == 0:
                _follow(state, name, side)


def _covariance(gradient: Float[Tensor, "batch rows columns"], side: int) -> Float[Tensor, "batch side side"]:
    return gradient @ gradient.mT if side == -2 else gradient.mT @ gradient


def _turn(values: Float[Tensor, "batch rows columns"], state: dict[str, Any]) -> Float[Tensor, "batch rows columns"]:
    """Into the eigenbases."""
    if "left_basis" in state:
        values = state["left_basis"].mT @ values
    return values @ state["right_basis"] if "right_basis" in state else values


def _turn_back(
    values: Float[Tensor, "batch rows columns"], state: dict[str, Any]
) -> Float[Tensor, "batch rows columns"]:
    """Out of the eigenbases."""
    if "left_basis" in state:
        values = state["left_basis"] @ values
    return values @ state["right_basis"].mT if "right_basis" in state else values


def _follow(state: dict[str, Any], name: str, side: int) -> None:
    """One power iteration of a basis towards its covariance's eigenvectors, largest eigenvalue first."""
    basis, covariance = state[f"{name}_basis"], state[f"{name}_covariance"]
    sizes = (basis * (covariance @ basis)).sum(-2)
    order = sizes.argsort(dim=-1, descending=True)
    basis = basis.gather(-1, order[:, None, :].expand_as(basis))
    square = state["square"]
    places = order[:, :, None].expand_as(square) if side == -2 else order[:, None, :].expand_as(square)
    state["square"] = square.gather(side, places)
    state[f"{name}_basis"] = torch.linalg.qr(covariance @ basis).Q
