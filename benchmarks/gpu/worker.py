"""One of our models in one mode and precision, in a process of its own: `python -m benchmarks.gpu.worker REQUEST`.

Each line is written as soon as it is measured: what a crash takes with it is one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.settings import Group, Inputs, Precision
from foundation.commands.cost import stated_backbones
from foundation.compilation import CompiledModel
from foundation.cost import (
    aspirin_molecules,
    build_model,
    count_gflop,
    energy_and_forces,
    held_tensors,
    labelled_graph,
    median_ms,
    peak_mbyte,
    training_step,
    water_box,
)
from foundation.data.graph import AtomGraph, collate
from foundation.errors import InputError
from foundation.threads import set_threads, tune_allocator

TF32_NEEDS_CUDA = "left out: TF32 is a mode of CUDA devices"
BF16_NEEDS_HARDWARE = "left out: this device has no bfloat16 arithmetic"
Line = dict[str, Any]
Work = Callable[[], object]


def main(arguments: list[str]) -> None:
    """Measure what the request asks for, and write a line a case into its file."""
    request = json.loads(arguments[0])
    inputs = Inputs(**request["inputs"])
    set_threads(None)
    tune_allocator()
    with Path(request["output"]).open("w", encoding="utf-8") as file:
        for line in measure(Group(**request["group"]), inputs):
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()


def measure(group: Group, inputs: Inputs) -> Iterator[Line]:
    """All cases of one model: training steps first, smallest first, then energies and forces."""
    device = torch.device(group.device)
    reason = _impossible(group.precision, device)
    if reason is not None:
        yield {"case": "all", "failed": reason}
        return
    bench = Bench(group, inputs, device)
    for size in inputs.batch_sizes:
        yield bench.train(size)
    yield bench.latency()
    for side in inputs.water_sides:
        yield bench.water(side)


def _impossible(precision: Precision, device: torch.device) -> str | None:
    if precision == "tf32" and device.type != "cuda":
        return TF32_NEEDS_CUDA
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return BF16_NEEDS_HARDWARE
    return None


def describe_device(device: torch.device) -> Line:
    """Name of the device and versions."""
    if device.type != "cuda":
        return {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "device_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


class Bench:
    """One model on its device, and the cases that it is measured on.

    Args:
        group: Which model, and how it runs.
        inputs: Sizes and repetitions.
        device: That of the group.
    """

    def __init__(self, group: Group, inputs: Inputs, device: torch.device) -> None:
        (backbone,) = stated_backbones([group.recipe]).values()
        self.group, self.inputs, self.device = group, inputs, device
        self.cutoff = backbone.cutoff
        molecules = aspirin_molecules(max(8, *inputs.batch_sizes))
        self.graphs = [labelled_graph(atoms, cutoff=self.cutoff) for atoms in molecules]
        self.model = build_model(backbone, molecules[:8]).to(device)
        self.one = collate(self.graphs[:1]).to(str(device))
        self.exact = energy_and_forces(self.model, self.one)()  # before the precision is lowered
        torch.set_float32_matmul_precision("high" if group.precision == "tf32" else "highest")
        self.autocast = torch.bfloat16 if group.precision == "bf16" else None
        self.forward = CompiledModel(self.model) if group.mode == "compile" else self.model
        # A rate of zero costs as much as any other, and the outputs stay comparable with the exact ones.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self.common: Line = {"parameters": self.model.num_parameters, **describe_device(device)}

    def train(self, size: int) -> Line:
        """A training step on so many aspirins."""
        return self._case(
            f"train{size}",
            lambda: collate(self.graphs[:size]),
            lambda batch: training_step(self.forward, batch, self.optimizer, autocast=self.autocast),
        )

    def latency(self) -> Line:
        """Energy and forces of one aspirin, and how far they are from the eager float32 ones."""
        line = self._case("aspirin", lambda: self.one, self._inference)
        if "failed" in line:
            return line
        found = self._inference(self.one)()
        errors = {
            f"{name}_difference": float((found[name].double() - values).norm() / values.norm())
            for name, values in ((name, values.double()) for name, values in sorted(self.exact.items()))
        }
        return line | errors

    def water(self, side: int) -> Line:
        """Energy and forces of a periodic box of water."""
        atoms = water_box(side)
        return self._case(
            f"water{len(atoms)}", lambda: collate([labelled_graph(atoms, cutoff=self.cutoff)]), self._inference
        )

    def _inference(self, batch: AtomGraph) -> Callable[[], dict[str, Tensor]]:
        work = energy_and_forces(self.forward, batch)

        def infer() -> dict[str, Tensor]:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                return work()

        return infer

    def _case(self, name: str, batch: Callable[[], AtomGraph], build: Callable[[AtomGraph], Work]) -> Line:
        """Time and memory of one case; what went wrong is a result as well."""
        line = self.common | {"case": name}
        try:
            return line | self._measure(batch().to(str(self.device)), build)
        except InputError as error:
            return line | {"failed": f"refused: {error}"}
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return line | {"failed": "out of memory"}
        except RuntimeError as error:
            return line | {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:300]}

    def _measure(self, batch: AtomGraph, build: Callable[[AtomGraph], Work]) -> Line:
        work, atoms = build(batch), len(batch.positions)
        work()  # compiles, and gives the optimizer its state
        milliseconds, repetitions = median_ms(
            work, device=self.device, repetitions=self.inputs.repetitions, max_seconds=self.inputs.max_seconds
        )
        eager = self.group.mode == "eager"
        gflop = count_gflop(work) if eager else None
        self.optimizer.zero_grad(set_to_none=True)
        peak = None  # of compiled code, operators on a CPU do not tell; a CUDA device's allocator does
        if eager or self.device.type == "cuda":
            held = held_tensors(self.model, self.optimizer, batch)
            peak = peak_mbyte(work, device=self.device, held=held)
        return {
            "structures": batch.num_graphs,
            "atoms": atoms,
            "median_ms": milliseconds,
            "repetitions": repetitions,
            "structures_per_s": 1e3 * batch.num_graphs / milliseconds,
            "us_per_atom": 1e3 * milliseconds / atoms,
            "peak_mbyte": peak,
            "gflop": gflop,
            "gflop_per_s": None if gflop is None else 1e3 * gflop / milliseconds,
        }


if __name__ == "__main__":
    main(sys.argv[1:])
