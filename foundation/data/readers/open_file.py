"""Open files as they are or compressed with gzip, xz or bzip2; check that they are what the card was written for."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast

from foundation.data.files import DataFile
from foundation.errors import InputError

__all__ = ["check_content", "check_digest", "open_binary", "open_text"]

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


@contextmanager
def open_text(path: Path) -> Iterator[TextIOWrapper]:
    """Open as text; the ending .gz, .xz or .bz2 decides the compression.

    The byte order mark that spreadsheets and some editors write first is no part of the text.

    Raises:
        InputError: The file is missing, broken or not text.
    """
    opener = _OPENERS.get(path.suffix.lower(), open)
    with _faults_named(path), cast(TextIOWrapper, opener(path, "rt", encoding="utf-8-sig", newline="")) as stream:
        yield stream


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open as bytes, decompressed.

    Raises:
        InputError: The file is missing or broken.
    """
    opener = _OPENERS.get(path.suffix.lower(), open)
    with _faults_named(path), cast(BinaryIO, opener(path, "rb")) as stream:
        yield stream


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text: {error}") from error
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def check_content(file: DataFile) -> None:
    """Compare a file with its known sha256, if there is one.

    Raises:
        InputError: It differs: what the card says of units and keys may not hold.
    """
    if file.sha256 is None:
        return
    with file.path.open("rb") as stream:
        check_digest(file, hashlib.file_digest(stream, "sha256").hexdigest())


def check_digest(file: DataFile, digest: str) -> None:
    """Compare a file's sha256 with the known one, if there is one.

    Raises:
        InputError: It differs.
    """
    if file.sha256 is not None and digest != file.sha256:
        raise InputError(
            f"{file.path}: sha256 {digest} is not the {file.sha256} that the card was written for; name the file as "
            "your own `source` if you are sure that it has the same keys and units"
        )
