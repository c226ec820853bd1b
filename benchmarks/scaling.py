"""What several processes gain: measured with gloo on this machine, predicted for 8, 64 and 512 GPUs.

    python benchmarks/scaling.py measure --json FILE       # a few minutes; nothing else may run beside it
    python benchmarks/scaling.py predict FILE              # no computing: the model below, every assumption an argument
    python benchmarks/scaling.py predict FILE --step-ms 41 # with a GPU's measured step (python -m benchmarks.gpu)

`measure` trains the same global batches of aspirins (energies and forces, the shipped optimizer, Lightning's loop) in
three ways, in turn: one rank with two threads; two ranks with one thread each; and, for the price of communication, two
processes with one thread each that do not talk, each on its half. Batches are in memory: loading has a benchmark of its
own. What a step of two ranks takes longer than that of the slower silent process is communication that was not hidden
behind computing, waiting included; a bare all-reduce of as many bytes as the gradients is timed beside it.

`predict` holds the batch of each GPU (weak scaling). A step takes

    compute (1 + imbalance E[max of N standard normal variables]) + (1 - overlap) all-reduce + small all-reduces

compute = one thread's measured step × batch / measured batch / speed ratio. The all-reduce is hierarchical: a ring of
the GPUs of a node reduces and scatters, `ring` or `tree` (two complementary binary trees) joins the nodes, each GPU
through its own adapter with its share of the gradient, and a ring in the node gathers. Times are latency + bytes over
bandwidth: Thakur, Rabenseifner & Gropp, Int. J. High Perform. Comput. Appl. 19, 49 (2005); trees: Sanders, Speck &
Träff, Parallel Comput. 35, 581 (2009). Small all-reduces, bound by latency: the counts of labels, which every loss
waits for, and DDP's list of the weights that some rank used.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GPUS = (1, 8, 64, 512)
WARM_UP = 3
SMALL_EXCHANGES = 2
BARE_REPEATS = 20
WAYS = {"one rank, two threads": (1, 1, 2), "two ranks, one thread": (2, 2, 1), "two silent": (2, 1, 1)}
"""Name -> processes, ranks of a run, threads of a process."""


def measure(arguments: argparse.Namespace) -> None:
    """Run the three ways in turn, print, and keep the figures."""
    rounds: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in WAYS}
    load = os.getloadavg()[0]
    for _ in range(arguments.rounds):
        for name, (processes, ranks, threads) in WAYS.items():
            rounds[name].append(_run(arguments, processes=processes, ranks=ranks, threads=threads))
    seconds = {name: [max(one["step_s"] for one in found) for found in rounds[name]] for name in WAYS}
    one, two, silent = (np.array(seconds[name]) for name in WAYS)
    ranks = [rank for found in rounds["two ranks, one thread"] for rank in found]
    alone = [process for found in rounds["two silent"] for process in found]
    result = {
        "size": arguments.size,
        "structures": arguments.structures,
        "atoms_per_structure": 21,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "optimizer": "muon",
        "step_s": {name: list(values) for name, values in seconds.items()},
        "structures_per_s": {name: arguments.structures / statistics.median(seconds[name]) for name in WAYS},
        "two_ranks_over_two_threads": statistics.median(one / two),
        "communication_share": statistics.median((two - silent) / two),
        "communication_ms": 1e3 * statistics.median(two - silent),
        "bare_allreduce_ms": 1e3 * statistics.median(rank["allreduce_s"] for rank in ranks),
        "gradient_bytes": ranks[0]["gradient_bytes"],
        "num_weights": ranks[0]["num_weights"],
        "one_thread_step_s": statistics.median(process["step_s"] for process in alone),
        "one_thread_structures": arguments.structures // 2,
        "gflop_per_structure": _gflop_per_structure(arguments.size),
        "cpu_share": {name: min(one["cpu_share"] for found in rounds[name] for one in found) for name in WAYS},
        "machine": {"cores": os.cpu_count(), "processor": platform.processor(), "load_before": load},
    }
    for name in WAYS:
        print(
            f"{name:24s} {1e3 * statistics.median(seconds[name]):8.1f} ms a step "
            f"{result['structures_per_s'][name]:8.1f} structures/s   of its threads' time on a core: at least "
            f"{result['cpu_share'][name]:.0%}"
        )
    print(f"two ranks over two threads: {result['two_ranks_over_two_threads']:.3f} (rounds: {np.round(one / two, 3)})")
    print(
        f"communication not hidden, waiting included: {result['communication_ms']:.1f} ms a step, "
        f"{result['communication_share']:.1%}; bare all-reduce of {result['gradient_bytes']:,} bytes: "
        f"{result['bare_allreduce_ms']:.2f} ms; load of the machine before: {load:.1f}"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _run(arguments: argparse.Namespace, *, processes: int, ranks: int, threads: int) -> list[dict[str, Any]]:
    """Start processes together; what each of them measured."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
        started = []
        for number in range(processes):
            share = arguments.structures // processes
            words = ["work", arguments.size, str(share), str(arguments.steps), str(ranks), str(threads), str(number)]
            place = {"LOCAL_RANK": str(number if ranks > 1 else 0), "OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, __file__, *words, str(Path(folder) / f"{number}.json")]
            started.append(subprocess.Popen(command, env=own | meeting | place))
        codes = [process.wait() for process in started]
        if any(codes):
            sys.exit(f"a process of {processes} ended with exit codes {codes}")
        return [json.loads((Path(folder) / f"{n}.json").read_text(encoding="utf-8")) for n in range(processes)]


def work(words: list[str]) -> None:
    """Be one process: train on a share of the global batch and write what it took."""
    size, share, steps, ranks, threads, number, out = words
    import torch
    from lightning.pytorch import Callback, Trainer

    from foundation.commands.cost import stated_backbones
    from foundation.cost import aspirin_molecules, build_model, labelled_graph
    from foundation.data.graph import collate
    from foundation.run.ranks import trainer_arguments
    from foundation.threads import tune_allocator
    from foundation.training.module import FoundationModule
    from foundation.training.objectives import SupervisedConfig, build_objectives
    from foundation.training.optim import MuonConfig
    from foundation.training.schedule import ScheduleConfig

    torch.set_num_threads(int(threads))
    tune_allocator()
    backbone = stated_backbones([size])[size]
    molecules = aspirin_molecules(int(share) * (int(number) + 1))
    model = build_model(backbone, molecules[:8])
    batch = collate([labelled_graph(one, cutoff=backbone.cutoff) for one in molecules[-int(share) :]])
    tasks = {name: SupervisedConfig(property=name, weight=1.0) for name in ("energy", "forces")}

    class Repeated:
        """The same batch again and again."""

        def __init__(self, batch: Any, count: int) -> None:
            self.batch, self.count = batch, count

        def __len__(self) -> int:
            return self.count

        def __iter__(self) -> Any:
            return iter([self.batch] * self.count)

    class Clock(Callback):
        """When each step ended, and what was sent."""

        def __init__(self) -> None:
            self.ends: list[float] = []
            self.cpu: list[float] = []
            self.found: dict[str, Any] = {"allreduce_s": 0.0}

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            del trainer, optimizer
            gradients = [one.grad for one in pl_module.parameters() if one.grad is not None]
            self.found["gradient_bytes"] = sum(one.nbytes for one in gradients)
            self.found["num_weights"] = len(gradients)

        def on_train_batch_end(self, *given: Any) -> None:
            del given
            self.ends.append(time.perf_counter())
            self.cpu.append(time.process_time())

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del pl_module
            if trainer.world_size == 1:
                return
            buffer, taken = torch.zeros(self.found["gradient_bytes"] // 4), []
            for _ in range(BARE_REPEATS):
                torch.distributed.barrier()
                start = time.perf_counter()
                torch.distributed.all_reduce(buffer)
                taken.append(time.perf_counter() - start)
            self.found["allreduce_s"] = statistics.median(taken)

    clock = Clock()
    module = FoundationModule(
        model,
        build_objectives(tasks, model=model, dataset_names=("aspirin",)),
        optimizer=MuonConfig(),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
        ema=None,
        dataset_names=("aspirin",),
        seed=0,
    )
    total = int(steps) + WARM_UP
    trainer = Trainer(
        **trainer_arguments({"accelerator": "cpu", "devices": int(ranks)}),
        max_steps=total,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=total,
    )
    trainer.fit(module, Repeated(batch, total))
    ends, cpu = clock.ends[WARM_UP - 1 :], clock.cpu[WARM_UP - 1 :]
    busy = (cpu[-1] - cpu[0]) / (ends[-1] - ends[0]) / int(threads)
    result = clock.found | {"step_s": statistics.median(np.diff(ends).tolist()), "cpu_share": busy}
    Path(out).write_text(json.dumps(result), encoding="utf-8")


def _gflop_per_structure(size: str) -> float:
    """10⁹ operations of matrix products of a training step, of each structure."""
    import torch

    from foundation.commands.cost import stated_backbones
    from foundation.cost import aspirin_molecules, build_model, count_gflop, labelled_graph, training_step
    from foundation.data.graph import collate

    backbone = stated_backbones([size])[size]
    molecules = aspirin_molecules(4)
    model = build_model(backbone, molecules)
    batch = collate([labelled_graph(one, cutoff=backbone.cutoff) for one in molecules])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return count_gflop(training_step(model, batch, optimizer, autocast=None)) / len(molecules)


def predict(arguments: argparse.Namespace) -> None:
    """Print steps and structures a second of every number of GPUs, and what was assumed."""
    found = json.loads(arguments.measured.read_text(encoding="utf-8"))
    per_structure = found["one_thread_step_s"] / found["one_thread_structures"]
    thread_gflops = found["gflop_per_structure"] / per_structure
    if arguments.step_ms is not None:
        compute, source = arguments.step_ms / 1e3, "measured on a GPU (--step-ms)"
        ratio = arguments.batch * per_structure / compute
    else:
        ratio = arguments.speed_ratio or arguments.gpu_gflops * arguments.gpu_share / thread_gflops
        compute, source = arguments.batch * per_structure / ratio, "one thread's measured step over the speed ratio"
    gradient, flags = found["gradient_bytes"] * arguments.model_scale, 4 * found["num_weights"]
    print(f"{found['size']}: {arguments.batch} structures of {found['atoms_per_structure']} atoms on each GPU")
    print(f"  compute {1e3 * compute:.2f} ms: {source}; one thread: {1e3 * per_structure:.1f} ms a structure")
    print(
        f"  ({thread_gflops:.1f} GFLOP/s), so that a GPU is {ratio:.0f} times one thread; gradients {gradient:,.0f} B"
    )
    for name in ("per_node", "node_latency_us", "node_gb_s", "network_latency_us", "network_gb_s"):
        print(f"  {name} {getattr(arguments, name):g}", end="")
    print(f"\n  algorithm {arguments.algorithm}, overlap {arguments.overlap:g}, imbalance {arguments.imbalance:g}")
    print("GPUs   step, ms   waiting, ms   communication, ms   structures/s   efficiency")
    for gpus in GPUS:
        waiting = compute * arguments.imbalance * largest_of(gpus)
        small = SMALL_EXCHANGES * all_reduce_seconds(flags, gpus, arguments)
        exposed = (1.0 - arguments.overlap) * all_reduce_seconds(gradient, gpus, arguments) + small
        step = compute + waiting + exposed
        print(
            f"{gpus:4d} {1e3 * step:10.3f} {1e3 * waiting:13.3f} {1e3 * exposed:19.3f} "
            f"{gpus * arguments.batch / step:14.0f} {compute / step:12.1%}"
        )


def all_reduce_seconds(num_bytes: float, gpus: int, arguments: argparse.Namespace) -> float:
    """One all-reduce: a ring in each node around an exchange of nodes."""
    inside = min(gpus, arguments.per_node)
    nodes = math.ceil(gpus / arguments.per_node)
    seconds = 2 * (inside - 1) * (arguments.node_latency_us * 1e-6 + num_bytes / inside / (arguments.node_gb_s * 1e9))
    if nodes == 1:
        return seconds
    share, latency, rate = num_bytes / inside, arguments.network_latency_us * 1e-6, arguments.network_gb_s * 1e9
    if arguments.algorithm == "ring":
        return seconds + 2 * (nodes - 1) * (latency + share / nodes / rate)
    return seconds + 2 * math.ceil(math.log2(nodes)) * latency + 2 * share / rate


def largest_of(count: int) -> float:
    """Expected largest of so many independent standard normal variables."""
    from scipy.stats import norm

    grid = np.linspace(-8.0, 8.0, 20_001)
    density = count * norm.pdf(grid) * norm.cdf(grid) ** (count - 1)
    return float(np.sum(grid * density) * (grid[1] - grid[0]))


def main() -> None:
    """Parse and do."""
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure", help="train on this machine")
    one.add_argument("--size", default="backbones/xs", help="a recipe that states model.backbone")
    one.add_argument("--structures", type=int, default=32, help="of a global batch; even")
    one.add_argument("--steps", type=int, default=20, help=f"timed, after {WARM_UP} others")
    one.add_argument("--rounds", type=int, default=3, help="of all ways; medians are reported")
    one.add_argument("--json", type=Path)
    one.set_defaults(act=measure)
    two = commands.add_parser("predict", help="for many GPUs", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    two.add_argument("measured", type=Path, help="what `measure --json` wrote")
    two.add_argument("--batch", type=int, default=128, help="structures on each GPU")
    two.add_argument("--step-ms", type=float, help="one GPU's compute on that batch, measured; else a ratio")
    two.add_argument("--speed-ratio", type=float, help="of a GPU to one thread; else from the two below")
    two.add_argument("--gpu-gflops", type=float, default=67_000, help="peak, float32 (NVIDIA H100 SXM data sheet)")
    two.add_argument("--gpu-share", type=float, default=0.05, help="of the peak that small kernels reach: a guess")
    two.add_argument("--model-scale", type=float, default=1.0, help="times the gradient's bytes: a larger model's")
    two.add_argument("--per-node", type=int, default=8, help="GPUs (DGX H100)")
    two.add_argument("--node-latency-us", type=float, default=3.4, help="a hop (NCCL src/graph/tuning.cc: NVLink ring)")
    two.add_argument("--node-gb-s", type=float, default=360.0, help="0.8 of NVLink 4's 450 GB/s each way (data sheet)")
    two.add_argument("--network-latency-us", type=float, default=9.6, help="a hop (tuning.cc: network, ring)")
    two.add_argument("--network-gb-s", type=float, default=40.0, help="0.8 of 400 Gbit/s, an adapter a GPU (DGX H100)")
    two.add_argument("--algorithm", choices=("ring", "tree"), default="tree", help="between nodes")
    two.add_argument("--overlap", type=float, default=0.0, help="share of the all-reduce hidden behind computing")
    two.add_argument("--imbalance", type=float, default=0.02, help="relative standard deviation of ranks' computing")
    two.set_defaults(act=predict)
    arguments = parser.parse_args()
    if arguments.act is measure and (arguments.structures < 2 or arguments.structures % 2):
        parser.error(f"--structures: got {arguments.structures}; allowed: an even number, at least 2")
    arguments.act(arguments)


if __name__ == "__main__":
    main()
