"""A store that lies elsewhere: files are brought to a local cache when they are first used.

An address is anything that fsspec opens: `s3://`, `gs://`, `https://`, `hf://`, `memory://`. A file appears in the
cache whole and verified, or not at all; processes that want the same file at once fetch it once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from foundation.data.arrow_shard import ShardEntry
from foundation.data.store_files import locked, sync_folder, writing
from foundation.errors import InputError

_READ_BYTES = 1 << 22


def is_address(path: Path | str) -> bool:
    """Whether this is an address for fsspec rather than a path of this machine."""
    return isinstance(path, str) and "://" in path


class RemoteFolder:
    """A folder at an address, and its local cache.

    Args:
        address: With its protocol.

    Raises:
        InputError: The protocol is unknown or its package is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._folder: Path | None = None
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise InputError(f"{address}: {error}") from error

    def read_text(self, name: str) -> str:
        """A small text file.

        Raises:
            InputError: It cannot be read.
        """
        with self._reading(name):
            return self._files.cat_file(f"{self._root}/{name}").decode("utf-8")

    def keep(self, cache_dir: Path, content_id: str) -> Path:
        """Where the files of this address go as long as its metadata have this digest."""
        place = hashlib.sha256(f"{self.address} {content_id}".encode()).hexdigest()[:20]
        self._folder = cache_dir / "remote" / place
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def fetch(self, entry: ShardEntry) -> None:
        """Bring a file here, unless it is here.

        Raises:
            InputError: The address cannot be read or serves something else than was recorded; the disk is full.
        """
        assert self._folder is not None, "keep() comes first"
        target = self._folder / entry.file
        if target.exists():
            return
        with writing(self._folder), locked(self._folder / f".{entry.file}.lock"):
            if not target.exists():
                self._download(entry, target)

    def _download(self, entry: ShardEntry, target: Path) -> None:
        partial = target.with_name(f".{entry.file}.{os.getpid()}.partial")
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                for block in self._blocks(entry.file):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                file.flush()
                os.fsync(file.fileno())
            if size != entry.num_bytes or digest.hexdigest() != entry.sha256:
                raise InputError(
                    f"{self.address}/{entry.file}: corrupt store shard: the address serves {size} bytes with sha256 "
                    f"{digest.hexdigest()}, recorded were {entry.num_bytes} bytes with {entry.sha256}; upload the file "
                    "anew"
                )
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._reading(name):
            stream: Any = self._files.open(f"{self._root}/{name}", "rb", block_size=_READ_BYTES)
        with contextlib.closing(stream):
            while True:
                with self._reading(name):
                    block = stream.read(_READ_BYTES)
                if not block:
                    return
                yield block

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Whatever a protocol's package raises becomes one message that names the file.

        Raises:
            InputError: The address cannot be read.
        """
        try:
            yield
        except Exception as error:  # every protocol has exceptions of its own, some of them no OSError
            reason = str(error) or type(error).__name__
            raise InputError(f"{self.address}/{name}: cannot be read: {reason}") from error
