"""Runs in a process of their own that are killed, or told to stop, at a moment that a test names; how they compare."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable

from foundation.cli import main
from foundation.run import training
from foundation.run.checkpoint_files import CheckpointFiles
from foundation.training.module import FoundationModule

QUIET = ["trainer.enable_progress_bar=false", "report=false"]
EVERY_STEP, NEVER = "checkpoint_minutes=1e-9", "checkpoint_minutes=5"
_FORK = multiprocessing.get_context("fork")
"""A process of its own to kill, without importing everything again."""

MOMENTS: dict[str, tuple[object, str]] = {
    "plan": (training, "make_plan"),
    "batch": (FoundationModule, "on_train_batch_start"),
    "start": (FoundationModule, "on_fit_start"),
    "validation": (FoundationModule, "validation_step"),
    "save": (CheckpointFiles, "save_checkpoint"),
    "evaluation": (training, "evaluate"),
}
"""Name -> whose function begins at that moment."""


def interrupt(
    arguments: list[str], *, number: signal.Signals, at: str = "batch", after: int, code: int | None = None
) -> None:
    """Train, and get a signal when something begins: SIGKILL is as a power cut.

    Args:
        arguments: Of the command line.
        number: The signal. It goes to all processes of the run, as batch systems send it.
        at: One of `MOMENTS`.
        after: How many of its kind come before.
        code: Exit code; None for that of a run that was killed or told to stop.
    """

    def send() -> None:
        os.killpg(0, number)

    arrange_and_train(arguments, send, at=at, after=after, code=code or (-number if number == signal.SIGKILL else 1))


def arrange_and_train(arguments: list[str], act: Callable[[], object], *, at: str, after: int, code: int) -> None:
    """Train, and do something when something begins.

    Args:
        arguments: Of the command line.
        act: What is done, in the process that trains; it leads a group of its own.
        at: One of `MOMENTS`.
        after: How many of its kind come before.
        code: The exit code that is to come.
    """
    process = _FORK.Process(target=_train, args=(arguments, act, at, after))
    process.start()
    process.join()
    assert process.exitcode == code


def train_on_ranks(arguments: list[str], *, ranks: int, told: int | None = None, after: int = 0, code: int = 0) -> None:
    """Train in several processes that meet through gloo, as a launcher starts them.

    Args:
        arguments: Of the command line, without the number of processes; `{rank}` stands for each one's own.
        ranks: How many.
        told: Which of them gets SIGUSR1; None for none.
        after: Batches of it that come before.
        code: The exit code of each that is to come.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    processes = []
    for rank in range(ranks):
        moment = after if rank == told else -1
        words = [*(word.replace("{rank}", str(rank)) for word in arguments), f"trainer.devices={ranks}"]
        processes.append(_FORK.Process(target=_be_rank, args=(words, {**places, "LOCAL_RANK": str(rank)}, moment)))
        processes[-1].start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [code] * ranks


def _be_rank(arguments: list[str], places: dict[str, str], after: int) -> None:
    os.environ |= places
    _train(arguments, lambda: os.kill(os.getpid(), signal.SIGUSR1), "batch", after)


def _train(arguments: list[str], act: Callable[[], object], at: str, after: int) -> None:
    os.setpgrp()
    owner, name = MOMENTS[at]
    former = getattr(owner, name)
    begun: list[None] = []

    def begin(*given: object, **named: object) -> object:
        begun.append(None)
        if len(begun) == after + 1:
            act()
        return former(*given, **named)

    setattr(owner, name, begin)
    raise SystemExit(main(arguments))
