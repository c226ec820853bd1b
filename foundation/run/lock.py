"""One program at a time in a run directory.

The operating system holds the lock and lets go of it when the process ends, however it ends: a killed run leaves
nothing behind that has to be removed. A POSIX record lock, which NFS and Lustre (mounted with `flock`) share between
nodes, and which worker processes do not inherit.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from pathlib import Path
from types import TracebackType

from foundation.errors import InputError

__all__ = ["RunLock"]

LOCK_FILE = ".lock"
PATIENCE_SECONDS = 60.0
"""How long a requeued job waits for its own forerunner to be gone."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class RunLock:
    """Held while it is entered.

    Args:
        run: The run directory; it exists when the lock is entered.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is entered."""
        return self._descriptor is not None

    def __enter__(self) -> RunLock:
        """Take it.

        Raises:
            InputError: Another process holds it: says which, on which node, of which job.
        """
        self._descriptor = os.open(self._run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        started = time.monotonic()
        while not self._take():
            holder = self._holder()
            is_forerunner = holder.get("job") is not None and holder.get("job") == _own()["job"]
            if not is_forerunner or time.monotonic() - started > PATIENCE_SECONDS:
                self._close()
                shown = ", ".join(f"{name} {value}" for name, value in holder.items() if value is not None)
                raise InputError(
                    f"run directory '{self._run}': another program trains in it ({shown or 'unknown'}); "
                    "allowed: waiting until it has ended, or another --out"
                )
            time.sleep(0.5)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(_own()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of it."""
        self._close()

    def _take(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                text = f"warning: {self._run}: this file system has no locks; a second job here would not be noticed"
                print(text, file=sys.stderr, flush=True)
                return True
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _holder(self) -> dict[str, str | int | None]:
        """Read through the same descriptor: closing another one of this file would let go of the lock."""
        assert self._descriptor is not None
        try:
            return dict(json.loads(os.pread(self._descriptor, 4096, 0)))
        except ValueError:
            return {}

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _own() -> dict[str, str | int | None]:
    return {"process": os.getpid(), "node": platform.node(), "job": os.environ.get("SLURM_JOB_ID")}
