"""Operations, memory and time of a piece of work that can be repeated."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_gflop", "median_ms", "peak_mbyte"]

WARM_UP = 2
LEAST_REPETITIONS = 3


def count_gflop(work: Callable[[], object]) -> float:
    """10⁹ floating-point operations of matrix products, as torch's own counter has them; all else is left out.

    Args:
        work: Eager: the counter does not see into compiled code.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def median_ms(
    work: Callable[[], object], *, device: torch.device, repetitions: int, max_seconds: float
) -> tuple[float, int]:
    """Median wall time of the work, after warming up.

    Args:
        work: What is timed.
        device: Waited for before and after each repetition.
        repetitions: Wanted.
        max_seconds: After this long no further one is begun, once there are `LEAST_REPETITIONS`.

    Returns:
        Milliseconds, and how many repetitions they are the median of.
    """
    for _ in range(WARM_UP):
        work()
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < repetitions:
        if len(seconds) >= LEAST_REPETITIONS and time.perf_counter() - begun > max_seconds:
            break
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds), len(seconds)


def peak_mbyte(work: Callable[[], object], *, device: torch.device, held: Iterable[Tensor]) -> float:
    """Most bytes that tensors take at one time while the work is done, in 10⁶ bytes.

    On a CUDA device as its allocator counts them. On a CPU the sizes of all tensors alive are followed from operator to
    operator, so that the figure is the same on every machine; what the process takes beyond them (libraries, scratch
    space within operators, memory that the allocator keeps) does not count.

    Args:
        work: Eager on a CPU; done once before.
        device: Where.
        held: What exists before: weights, state of the optimizer, the batch. On a CUDA device everything counts that
            lies there.
    """
    if device.type == "cuda":
        _wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        _wait_for(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    with _LiveTensors(held) as live:
        work()
    return live.peak / 1e6


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _LiveTensors(TorchDispatchMode):
    """Follows the bytes of all storages that operators return until these are freed.

    Attributes:
        now: Bytes alive.
        peak: The most that they were.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._follow(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self._follow(one)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._alive or size == 0:
            return

        def freed(_: object) -> None:
            self._alive.pop(place, None)
            self.now -= size

        self._alive[place] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
