"""Layers whose intermediate results are computed anew in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

__all__ = ["recomputed"]

Result = TypeVar("Result")


def recomputed(function: Callable[[], Result], *, when: bool) -> Result:
    """Call a function of tensors; keep none of its intermediate results until a backward pass asks for them.

    Derivatives of any order are the same, bit for bit where arithmetic is deterministic: the graph is that of the first
    call, only the values in it are computed again. The function must draw no random numbers.

    Args:
        function: What to call; again in each backward pass.
        when: False calls it as it is.
    """
    if not when:
        return function()
    # So that no exception passes through the function, and hooks behind it are called.
    with set_checkpoint_early_stop(False):
        return checkpoint(function, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]
