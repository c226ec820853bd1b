"""SHA-256 of source files; of large ones it is remembered, so that no run reads them only to find its store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from foundation.data.store_files import replace_file
from foundation.errors import InputError

REMEMBERED_BYTES = 1 << 26
"""Smaller files are read each time: it takes less than a tenth of a second."""
_SETTLED_S = 2.0
"""A file that was changed less than this before it was read may change again without its time stamp showing it."""


def source_digests(paths: Sequence[Path], *, cache_dir: Path, first: int = 0) -> list[str]:
    """SHA-256 of each file.

    Args:
        paths: The files.
        cache_dir: Where digests of large files are remembered, with the size and time of change that they hold for.
        first: Which to begin with: processes that begin at different files share the work.

    Raises:
        InputError: A file cannot be read.
    """
    order = [*range(first, len(paths)), *range(first)]
    found = {place: _digest(paths[place], cache_dir / "digests") for place in order}
    return [found[place] for place in range(len(paths))]


def _digest(path: Path, folder: Path) -> str:
    try:
        state = path.stat()
        if state.st_size < REMEMBERED_BYTES:
            return _read(path)
        note = folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:20]}.json"
        key = [str(path), state.st_size, state.st_mtime_ns]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["file"] == key:
                return known["sha256"]
        began = time.time()
        digest = _read(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if state.st_mtime < began - _SETTLED_S:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(note, json.dumps({"file": key, "sha256": digest}).encode())
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
