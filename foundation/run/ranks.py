"""One run in several processes: who writes, and how they train together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from foundation.errors import InputError

__all__ = ["has_lost_another", "is_first_process", "num_devices", "num_ranks", "trainer_arguments", "wait_for_all"]

MANY_RANKS = "ddp_find_unused_parameters_true"
"""Batches need not use every head, so that some weights get no gradient."""
_LOST = re.compile(r"by peer|Broken pipe|[Tt]imed? ?out|NCCL")
"""What gloo and NCCL say when a rank does not answer."""
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Whether this process is the one that writes, or the only one; told before ranks have met."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def has_lost_another(error: BaseException) -> bool:
    """Whether an error says that another rank does not answer."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def trainer_arguments(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The section `trainer`, with a strategy that fits several ranks where it leaves that open."""
    arguments = dict(stated)
    if num_ranks(arguments) > 1 and arguments.get("strategy", "auto") == "auto":
        arguments["strategy"] = MANY_RANKS
    return arguments


def num_devices(arguments: Mapping[str, Any]) -> int:
    """Processes on each node that the section `trainer` asks for.

    Raises:
        InputError: `devices` is text that names none.
    """
    devices = arguments.get("devices", "auto")
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([one for one in devices.split(",") if one.strip()])
    if devices in ("auto", -1, "-1"):
        wants_gpus = arguments.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        return max(torch.cuda.device_count(), 1) if wants_gpus else 1
    if isinstance(devices, str) and not devices.strip().isdecimal():
        raise InputError(f"trainer.devices: got '{devices}'; allowed: a number, auto, or a list of devices such as 0,1")
    return int(devices)


def num_ranks(arguments: Mapping[str, Any]) -> int:
    """Processes on all nodes that the section `trainer` asks for."""
    return num_devices(arguments) * int(arguments.get("num_nodes", 1))
