"""Devices that are named by the user: known, and there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["usable_device"]


def usable_device(device: str | torch.device) -> torch.device:
    """A device that models can run on.

    Raises:
        InputError: It is no device, of a kind without float64, or not in this machine.
    """
    import torch  # here: commands that need no device do without it

    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device: got {device!r}; allowed: cpu, cuda, cuda:0, …") from error
    if target.type not in ("cpu", "cuda"):
        raise InputError(f"device: got '{target}'; allowed: cpu, cuda, cuda:0, …")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: got '{target}', but torch finds no CUDA device here; allowed: cpu")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        there = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise InputError(f"device: got '{target}'; allowed: cpu, {there}")
    return target
