"""Creating a folder all at once or not at all, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from foundation.errors import InputError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUFFIX = ".partial"
_SETTLED_S = 60.0
"""Seconds after which an unlocked partial folder belongs to nobody: its maker locks it within moments."""


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends, and vanishes if it fails.

    Files must have been brought to the disk by the block; their folder entries are brought here. What an earlier
    process left behind when it was killed is removed.

    Raises:
        InputError: The disk is full, or the place cannot be written.
        FileExistsError: Another process finished the same folder first.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent))
    try:
        with _held(partial):
            yield partial
            with writing(path):
                sync_folder(partial)
                partial.chmod(0o755)
                renamed = _rename(partial, path)
                sync_folder(path.parent)
        if not renamed:
            raise FileExistsError(f"{path} exists")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path, *, kept: str = "nothing was kept") -> Iterator[None]:
    """Turn the operating system's refusals to write the store at `path` into one message for the user.

    Args:
        path: The store.
        kept: What becomes of what was written so far.

    Raises:
        InputError: The disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(_explain(error, path, kept)) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_file(partial, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(partial: Path, path: Path) -> bool:
    """False if the place is taken."""
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for a lock on a file, made if it is not there, that ends with the process, however it ends.

    Where the file system has no locks nothing is locked: what is written appears by renaming, so that two processes
    which do the same work lose time and nothing else.

    Args:
        path: The file.
        shared: Together with others that share it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends; an error if another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _SETTLED_S:
                continue
            with _held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _explain(error: OSError, path: Path, kept: str) -> str:
    if error.errno in _NO_ROOM:
        return (
            f"{path}: no room left on the disk while writing the store ({error.strerror}); {kept}; "
            f"free space in '{path.parent}' or name another place with FOUNDATION_CACHE"
        )
    return f"{path}: the store cannot be written: {error.strerror or error}; name another place with FOUNDATION_CACHE"
