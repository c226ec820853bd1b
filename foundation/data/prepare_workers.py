"""Several processes of one machine make a store together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from foundation.data.store_parts import KEPT, StoreParts
from foundation.errors import InputError
from foundation.threads import available_cores

_REPORT_S = 0.5
_PARENT_S = 1.0
"""How often a process looks whether its parent lives: without one nobody would merge what it makes."""


def make_in_processes(parts: StoreParts, *, parts_of: range, of: int, on_record: Callable[[], None] | None) -> None:
    """Make several parts at once, one process each, and end all of them if one fails.

    Args:
        parts: The store in the making.
        parts_of: Which to make.
        of: Parts in all.
        on_record: Called after each structure.

    Raises:
        InputError: What the processes find; one of them was killed.
    """
    # Not forked from this process, which may hold threads of libraries whose locks a copy would wait for, but from one
    # that has imported what all of them need, and nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    threads = max(1, available_cores() // len(parts_of))
    processes: dict[Connection, ForkServerProcess] = {}
    try:
        for part in parts_of:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_make, args=(parts, part, of, threads, sender), daemon=True)
            process.start()
            sender.close()
            processes[receiver] = process
        _follow(dict(processes), on_record)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _follow(processes: dict[Connection, ForkServerProcess], on_record: Callable[[], None] | None) -> None:
    """Wait for all of them, handing on what they report."""
    while processes:
        for receiver in wait(list(processes)):
            assert isinstance(receiver, Connection)
            try:
                message = receiver.recv()
            except EOFError:
                process = processes.pop(receiver)
                process.join()
                _check_exit(process)
                continue
            if not isinstance(message, int):
                error, cause = message
                raise error from cause
            if on_record is not None:
                for _ in range(message):
                    on_record()


def _check_exit(process: ForkServerProcess) -> None:
    code = process.exitcode
    assert code is not None
    if code < 0:
        name = signal.Signals(-code).name
        raise InputError(
            f"a process that prepared data was killed by {name}"
            f"{' (out of memory?)' if name == 'SIGKILL' else ''}; {KEPT}: run the same command again, with fewer "
            "--workers if memory is short"
        ) from ChildProcessError(code)
    if code > 0:
        raise RuntimeError(f"a process that prepared data failed with code {code}; its traceback is above")


def _make(parts: StoreParts, part: int, of: int, threads: int, sender: Connection) -> None:
    """What one process does."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    made, reported = 0, time.monotonic()

    def count() -> None:
        nonlocal made, reported
        made += 1
        if time.monotonic() - reported >= _REPORT_S:
            sender.send(made)
            made, reported = 0, time.monotonic()

    try:
        parts.make(part=part, of=of, threads=threads, on_record=count)
        sender.send(made)
    except InputError as error:
        sender.send((error, error.__cause__ if isinstance(error.__cause__, OSError) else None))


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os._exit(1)
