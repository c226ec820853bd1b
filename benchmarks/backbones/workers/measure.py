"""One case in a process of its own: time, peak memory, operations, and the machine's limits in the same minute.

Needs torch, numpy and ase only, so it runs in every program's environment. A program's worker builds the work:

    python -m benchmarks.backbones.workers.measure_… SETTINGS MODE REQUEST      (SETTINGS and REQUEST are JSON)

and the result goes into the file that the request names.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WARM_UP = 4
LEAST_REPETITIONS = 3
GIB = 2**30
NUM_BATCHES = 8
TURN = "turn: "
STEPS_A_TURN = 5


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        case: `train8` (or another number of molecules), `aspirin`, `water192`, `water1536` or `water12288`.
        structures: Folder of the input files.
        threads: CPU threads.
        memory_limit_gib: Of the address space.
        repetitions: Wanted.
        max_seconds: After this long no further repetition is begun, once there are `LEAST_REPETITIONS`.
        output: Where the result goes, JSON.
        device: cpu or cuda.
        tf32: Whether matrix products of float32 arrays may run in TF32.
        in_turns: Whether to work when told so, a line of standard input a turn, in place of writing `output`.
    """

    case: str
    structures: str
    threads: int
    memory_limit_gib: float
    repetitions: int
    max_seconds: float
    output: str
    device: str = "cpu"
    tf32: bool = False
    in_turns: bool = False

    @property
    def batch_size(self) -> int | None:
        """Molecules of a training step; None where there is none."""
        return int(self.case.removeprefix("train")) if self.case.startswith("train") else None

    def frames(self) -> list[Atoms]:
        """Structures of the case: aspirin frames with labels, or one water box."""
        name = "aspirin" if self.batch_size is not None else self.case
        return [atoms for atoms in ase.io.iread(Path(self.structures) / f"{name}.xyz") if isinstance(atoms, Atoms)]

    def inputs(self) -> list[list[Atoms]]:
        """Structures of each call: whole batches of different molecules, at most `NUM_BATCHES` of them."""
        frames, size = self.frames(), self.batch_size or 1
        starts = range(0, min(NUM_BATCHES * size, len(frames)), size)
        return [frames[start : start + size] for start in starts if start + size <= len(frames)]


@dataclass(frozen=True)
class Work:
    """What a program does again and again.

    Attributes:
        step: One training step on the next batch, or energy and forces of the next structure.
        parameters: Number of the model's parameters.
    """

    step: Callable[[], object]
    parameters: int


class OperationCounter(TorchDispatchMode):
    """Counts floating-point operations (matrix products only, torch's own formulas) and bytes that operators touch.

    Bytes are the sizes of all tensors that an operator reads and writes, views left out: the traffic if nothing stayed
    in a cache and nothing were fused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = self.bytes = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flop += int(formula(*args, **kwargs, out_val=result))
        if not func.is_view:
            self.calls += 1
            self.bytes += sum(one.numel() * one.element_size() for one in _tensors((args, kwargs, result)))
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for inner in value for one in _tensors(inner)] if isinstance(value, list | tuple) else []


def sgemm_gflop_per_s(size: int = 1536, seconds: float = 1.0) -> float:
    """Best rate of a float32 matrix product."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / _best(lambda: torch.mm(left, right), seconds) / 1e9


def copy_gbyte_per_s(megabytes: int = 256, seconds: float = 1.0) -> float:
    """Best rate of a copy between arrays larger than the caches, reads and writes together."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    return 2 * megabytes * 2**20 / _best(lambda: target.copy_(source), seconds) / 1e9


def _best(function: Callable[[], object], seconds: float) -> float:
    times, begun = [], time.perf_counter()
    while len(times) < LEAST_REPETITIONS or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def peak_rss_mib() -> float:
    """Largest resident memory of this process until now (not of the one that started it)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def measure(request: Request, work: Work, *, mode: str, first_call_s: float) -> dict[str, Any]:
    """Repeat the work and describe how long it took.

    Args:
        request: How often.
        work: Warmed up once.
        mode: `compile` leaves the count of operations out: it is that of the eager model.
        first_call_s: Of the warm-up call that compiled.
    """
    begun = time.perf_counter()
    for _ in range(WARM_UP):
        work.step()
        if time.perf_counter() - begun > request.max_seconds:
            break
    seconds, cpu, begun = [], time.process_time(), time.perf_counter()
    while len(seconds) < request.repetitions:
        if len(seconds) >= LEAST_REPETITIONS and time.perf_counter() - begun > request.max_seconds:
            break
        wait_for(request.device)
        started = time.perf_counter()
        work.step()
        wait_for(request.device)
        seconds.append(time.perf_counter() - started)
    busy = (time.process_time() - cpu) / (time.perf_counter() - begun)
    peak = peak_rss_mib()
    on_cpu = request.device == "cpu"
    machine = {} if on_cpu else {"peak_device_mbyte": torch.cuda.max_memory_allocated(request.device) / 1e6}
    milliseconds = 1e3 * np.asarray(seconds)
    lower, median, upper = (float(value) for value in np.percentile(milliseconds, [25, 50, 75]))
    counter = OperationCounter()
    if mode == "eager":
        with counter:
            work.step()
    if on_cpu:
        machine = {"sgemm_gflop_per_s": sgemm_gflop_per_s(), "copy_gbyte_per_s": copy_gbyte_per_s()}
    return {
        "median_ms": median,
        "lower_quartile_ms": lower,
        "upper_quartile_ms": upper,
        "fastest_ms": float(milliseconds.min()),
        "slowest_ms": float(milliseconds.max()),
        "repetitions": len(seconds),
        "first_call_s": first_call_s,
        "cores_busy": busy,
        "peak_rss_mib": peak,
        "parameters": work.parameters,
        "gflop": counter.flop / 1e9 if mode == "eager" else None,
        "gbyte": counter.bytes / 1e9 if mode == "eager" else None,
        "operator_calls": counter.calls if mode == "eager" else None,
        **machine,
    }


def take_turns(work: Work, device: str) -> None:
    """A few steps for each line of standard input, their seconds onto standard output; an empty list when ready."""
    print(f"{TURN}[]", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(STEPS_A_TURN):
            started = time.perf_counter()
            work.step()
            wait_for(device)
            seconds.append(time.perf_counter() - started)
        print(f"{TURN}{json.dumps(seconds)}", flush=True)


def main(build: Callable[[dict[str, Any], str, Request], Work]) -> None:
    """Build the work, measure it, write the result.

    Args:
        build: From the model's settings, the mode and the request.
    """
    settings, mode, request = json.loads(sys.argv[1]), sys.argv[2], Request(**json.loads(sys.argv[3]))
    if request.device == "cpu":  # CUDA reserves addresses for all of the device's memory and more
        limit = int(request.memory_limit_gib * GIB)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_float32_matmul_precision("high" if request.tf32 else "highest")
    torch.set_num_threads(request.threads)
    torch.manual_seed(0)
    work = build(settings, mode, request)
    started = time.perf_counter()
    work.step()
    wait_for(request.device)
    first_call_s = time.perf_counter() - started
    if request.in_turns:
        take_turns(work, request.device)
        return
    result = measure(request, work, mode=mode, first_call_s=first_call_s)
    Path(request.output).write_text(json.dumps(result), encoding="utf-8")
