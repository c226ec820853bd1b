"""Whether the job that Slurm or torchrun started is what the recipe describes, told before anything is computed."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from foundation.errors import InputError
from foundation.resources import cache_dir
from foundation.run.ranks import num_devices

__all__ = ["SharedDirectory", "check_environment", "check_writable"]

_INTERACTIVE = ("bash", "interactive")
"""Names of jobs in which Lightning does not take a process for a task of Slurm's."""
SHARED_SECONDS = 20.0
"""How long a network file system may take to show a file on another node."""


def check_environment(trainer: Mapping[str, Any], *, environment: Mapping[str, str] | None = None) -> None:
    """Compare the processes that were started with those that the recipe counts on.

    Args:
        trainer: The recipe's section `trainer`.
        environment: Variables of the process; its own if None.

    Raises:
        InputError: Each contradiction, under which ranks would wait for others that never come.
    """
    variables = os.environ if environment is None else environment
    devices, nodes = num_devices(trainer), int(trainer.get("num_nodes", 1))
    problems = []
    if "TORCHELASTIC_RUN_ID" in variables:  # first, as Lightning does: torchrun may itself run in a job
        problems += _torchrun_problems(variables, devices=devices, nodes=nodes)
    elif "SLURM_JOB_ID" in variables and variables.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        problems += _slurm_problems(variables, devices=devices, nodes=nodes)
    else:
        problems += _stray_problems(variables, devices=devices, nodes=nodes)
    if trainer.get("accelerator") in ("gpu", "cuda") and torch.cuda.device_count() < devices:
        problems.append(
            f"trainer.devices: {devices} GPUs are wanted, this process sees {torch.cuda.device_count()}; allowed: "
            "as many as there are, on Slurm --gpus-per-node=N (with --gpus-per-task each task sees only its own)"
        )
    if problems:
        raise InputError(problems)


def _slurm_problems(variables: Mapping[str, str], *, devices: int, nodes: int) -> list[str]:
    tasks = _number(variables, "SLURM_NTASKS", 1)
    if "SLURM_STEP_ID" not in variables:  # in the batch script itself, or in a shell of salloc
        if tasks * devices * nodes == 1:
            return []
        return [
            f"Slurm: this job has {tasks} tasks and the recipe wants {devices * nodes} processes, but this process was "
            "not started by srun, so that there is only one; allowed: srun foundation train …, or slurm/train.sbatch"
        ]
    given_nodes = _number(variables, "SLURM_STEP_NUM_NODES", _number(variables, "SLURM_NNODES", 1))
    tasks = _number(variables, "SLURM_STEP_NUM_TASKS", tasks)
    if (tasks, given_nodes) == (devices * nodes, nodes):
        if tasks == 1 or "SLURM_NTASKS_PER_NODE" in variables:
            return []
        return [
            f"Slurm: {tasks} tasks were asked for with --ntasks, which leaves open how many run on a node; allowed: "
            f"--nodes={nodes} --ntasks-per-node={devices}"
        ]
    return [
        f"Slurm: the job has {tasks} {_plural(tasks, 'task')} on {given_nodes} {_plural(given_nodes, 'node')}, the "
        f"recipe wants {devices} {_plural(devices, 'device')} on each of {nodes} {_plural(nodes, 'node')} "
        f"(trainer.devices, trainer.num_nodes); allowed: one task a device: sbatch --nodes={nodes} "
        f"--ntasks-per-node={devices}, or trainer.num_nodes={given_nodes} trainer.devices={tasks // given_nodes}"
    ]


def _torchrun_problems(variables: Mapping[str, str], *, devices: int, nodes: int) -> list[str]:
    world, local = _number(variables, "WORLD_SIZE", 1), _number(variables, "LOCAL_WORLD_SIZE", 1)
    if (world, local) == (devices * nodes, devices):
        return []
    return [
        f"torchrun: it started {world} processes, {local} on this node; the recipe wants {devices} "
        f"{_plural(devices, 'device')} on each of {nodes} {_plural(nodes, 'node')}; allowed: "
        f"--nproc-per-node={devices} --nnodes={nodes}, or trainer.devices={local} trainer.num_nodes={world // local}"
    ]


def _stray_problems(variables: Mapping[str, str], *, devices: int, nodes: int) -> list[str]:
    """Of a launcher that nobody here listens to: each of its processes would take itself for the only one."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if _number(variables, name, 1) > 1:
            return [
                f"{name}: got {variables[name]}: mpirun started several processes, which would not find each other; "
                "allowed: torchrun, or srun in a job of Slurm"
            ]
    world = _number(variables, "WORLD_SIZE", devices * nodes if "RANK" not in variables else 0)
    if world == devices * nodes and (world == 1 or "RANK" not in variables or "LOCAL_RANK" in variables):
        return []
    found = ", ".join(f"{name}={variables[name]}" for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in variables)
    return [
        f"environment: {found}, but neither torchrun nor srun started this process, and the recipe wants "
        f"{devices * nodes} {'process' if devices * nodes == 1 else 'processes'} (trainer.devices, trainer.num_nodes); "
        "allowed: torchrun, srun, or none of these variables"
    ]


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    """A variable that holds a number.

    Raises:
        InputError: It does not.
    """
    value = variables.get(name)
    if value is None:
        return default
    if not value.isdecimal():
        raise InputError(f"environment: {name}: got '{value}'; allowed: a number, as srun and torchrun set it")
    return int(value)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def check_writable(run: Path) -> None:
    """Try to write where the run and the prepared data are going to lie; nothing stays.

    Raises:
        InputError: Each place that refuses.
    """
    cache = cache_dir()
    problems = []
    for place, advice in ((run, "another --out"), (cache, "FOUNDATION_CACHE=/another/place")):
        try:
            existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            problems.append(f"'{place}' cannot be written: {error.strerror}; allowed: {advice}")
    if problems:
        raise InputError(problems)


class SharedDirectory(Callback):
    """Makes sure that all ranks see the same run directory, and go on from the same one of its checkpoints.

    Args:
        path: As this rank calls it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The first rank writes a file and names its checkpoint; the others look for them.

        Raises:
            InputError: One does not find the file, or goes on from another checkpoint.
        """
        if trainer.world_size == 1:
            return
        token = self._path / f".seen-by-all-{trainer.strategy.broadcast(secrets.token_hex(8))}"
        if trainer.is_global_zero:
            token.touch()
        trainer.strategy.barrier("SharedDirectory")
        is_seen = _appears(token)
        is_shared = trainer.strategy.reduce_boolean_decision(is_seen, all=True)
        if trainer.is_global_zero:
            token.unlink()
        if not is_shared:
            raise InputError(
                f"run directory '{self._path}': {'other nodes do' if is_seen else 'this node does'} not see what the "
                "first process writes there; allowed: --out on a file system that all nodes share"
            )
        own = "the start" if trainer.ckpt_path is None else Path(trainer.ckpt_path).name
        first = trainer.strategy.broadcast(own)
        if not trainer.strategy.reduce_boolean_decision(own == first, all=True):
            seen = "another process sees another one" if own == first else f"the first process sees '{first}'"
            raise InputError(
                f"run directory '{self._path}': the newest whole checkpoint here is '{own}', {seen}; allowed: --resume "
                "again when the file system shows all nodes the same"
            )


def _appears(path: Path) -> bool:
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
