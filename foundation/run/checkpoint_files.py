"""Checkpoints to resume from, as files: written whole or not at all, the last two kept, damaged ones passed over.

The number of steps is in the name and decides which is the newest: clocks of several nodes do not agree. Each tensor's
checksum (CRC-32) is in the file, which is a zip archive as `torch.save` writes it.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from foundation.errors import InputError

__all__ = ["CheckpointFiles", "CheckpointFolder", "damage_of", "step_of", "sync_folder"]

FORMAT = 1
FORMAT_KEY = "foundation_checkpoint_format"
KEPT = 2
_NAME = re.compile(r"step-(\d+)\.ckpt")
_EARLIER_NAMES = ("cut.ckpt", "last.ckpt")
"""Of versions that kept one checkpoint a run; the first goes before the second."""
_CHUNK = 1 << 20
_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What reading a damaged archive raises."""


class CheckpointFiles(CheckpointIO):
    """How the trainer writes and reads every checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file that is either whole or not there, and is on the disk when this returns.

        Raises:
            OSError: It could not be written, as on a full disk; files that were there are untouched.
        """
        assert storage_options is None, "files only"
        target = Path(path)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(target.parent.parent)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            with temporary.open("wb") as file:
                _save({**checkpoint, FORMAT_KEY: FORMAT}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(target)) from error
        sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file; nothing in it can run.

        Raises:
            InputError: It is damaged, or of a newer version of the program.
        """
        assert weights_only is not False, "checkpoints hold tensors and plain data only"
        problem = damage_of(Path(path))
        if problem is not None:
            raise InputError(f"checkpoint '{path}': {problem}; allowed: another checkpoint or model")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        found = checkpoint.get(FORMAT_KEY, 0)
        if found > FORMAT:
            raise InputError(
                f"checkpoint '{path}': format {found} of a newer version of foundation; "
                f"allowed: up to {FORMAT}, or a newer foundation"
            )
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one; Lightning asks for it when a better one is kept."""
        Path(path).unlink(missing_ok=True)


class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        path: The directory; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, step: int) -> Path:
        """Where the checkpoint after that many optimizer steps lies."""
        return self.path / f"step-{step:09d}.ckpt"

    def by_age(self) -> list[tuple[int, Path]]:
        """Optimizer steps and file of every checkpoint, newest first."""
        found = [(step_of(path), path) for path in self.path.glob("step-*.ckpt")]
        return sorted(((step, path) for step, path in found if step is not None), reverse=True)

    def newest(self, *, says: bool) -> Path | None:
        """The newest checkpoint that is whole.

        Args:
            says: Tell people of damaged ones that are passed over.

        Raises:
            InputError: There are some, and all are damaged.
        """
        candidates = [path for _, path in self.by_age()]
        candidates = candidates or [self.path / name for name in _EARLIER_NAMES if (self.path / name).is_file()]
        problems = []
        for path in candidates:
            problem = damage_of(path)
            if problem is None:
                return path
            problems.append(f"checkpoint '{path}': {problem}")
            if says:
                print(f"warning: {problems[-1]}; going back to the one before", file=sys.stderr, flush=True)
        if problems:
            raise InputError([*problems, "no checkpoint is whole; allowed: another --out, which starts anew"])
        return None

    def keep_last(self) -> None:
        """Delete all but the newest ones."""
        for _, path in self.by_age()[KEPT:]:
            path.unlink(missing_ok=True)

    def set_aside_after(self, step: int) -> None:
        """Rename checkpoints of steps that are going to be done again: they are damaged, or of another branch."""
        for found, path in self.by_age():
            if found > step:
                os.replace(path, path.with_suffix(".ckpt.passed_over"))


def step_of(path: Path) -> int | None:
    """Optimizer steps of a checkpoint, by its name; None for names of earlier versions."""
    match = _NAME.fullmatch(path.name)
    return None if match is None else int(match[1])


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint's file; None if every checksum in it is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    while file.read(_CHUNK):
                        pass
        torch.load(path, map_location="meta", mmap=True, weights_only=True)  # the archive's directory has no checksum
    except _UNREADABLE as error:
        return f"damaged ({error})"
    return None


def _save(checkpoint: Mapping[str, Any], file: Any) -> None:
    """Let the operating system's error through, which torch hides in its own."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):
            raise cause from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the file system knows how to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)
