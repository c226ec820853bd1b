"""One Arrow file of a store: written once with its checksums, read as numpy views of the mapped file.

A file is an Arrow stream of exactly one record batch, written by Hugging Face `datasets` (`datasets.Dataset.from_file`
opens it). List columns are a flat value buffer and an offsets buffer; reading takes slices of these two and formats
nothing. Opening maps the file and verifies its head, so that it takes as long for a large file as for a small one; the
data are verified where they are read (`ListView`, `column_crc`), the whole file by `verify_file`.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from foundation.errors import InputError


@dataclass(frozen=True)
class ShardEntry:
    """What a store's metadata records of one file.

    Attributes:
        file: Name within the store.
        sha256: Of the whole file, hexadecimal.
        num_bytes: Its size.
        num_structures: Its rows.
        head_bytes: Bytes before the data: the schema and where each column lies.
        head_crc32: Of these.
    """

    file: str
    sha256: str
    num_bytes: int
    num_structures: int
    head_bytes: int
    head_crc32: int


class _HashingFile(io.RawIOBase):
    """A file opened for writing that digests what passes through, so that the checksum is of what was meant."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def finish(self) -> str:
        """Bring everything to the disk and give the checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


def write_shard(path: Path, columns: Mapping[str, pa.Array]) -> ShardEntry:
    """Write columns as one record batch and bring them to the disk.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    from datasets import Features  # here: who only reads a store does without its 100 MB
    from datasets.arrow_writer import ArrowWriter

    table = pa.table(dict(columns))
    sink = _HashingFile(path)
    with sink:
        stream = pa.PythonFile(sink, mode="w")
        writer = ArrowWriter(features=Features.from_arrow_schema(table.schema), stream=stream)
        writer.write_table(table, writer_batch_size=max(1, table.num_rows))
        writer.finalize(close_stream=False)
        sha256 = sink.finish()
    head_bytes, head_crc32 = _head(path)
    return ShardEntry(
        file=path.name,
        sha256=sha256,
        num_bytes=sink.num_bytes,
        num_structures=table.num_rows,
        head_bytes=head_bytes,
        head_crc32=head_crc32,
    )


def _head(path: Path) -> tuple[int, int]:
    """Size and checksum of what stands before the first column."""
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        table = pa.ipc.open_stream(whole).read_all()
    buffers = [
        buffer
        for column in table.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer is not None and buffer.size > 0
    ]
    size = min(buffer.address for buffer in buffers) - whole.address
    return size, zlib.crc32(whole.slice(0, size))


def list_column(rows: Sequence[np.ndarray | None], dtype: np.dtype | type) -> pa.Array:
    """A column of flat arrays of any length; None is null."""
    lengths = np.array([0 if row is None else row.size for row in rows], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    assert offsets[-1] < 2**31, "a shard's column outgrew 32-bit offsets"
    parts = [np.asarray(row, dtype=dtype).reshape(-1) for row in rows if row is not None]
    values = np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
    missing = np.array([row is None for row in rows])
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(values), mask=pa.array(missing) if missing.any() else None
    )


class ListView:
    """A list column of an open file as flat values and offsets.

    Attributes:
        values: Everything end to end; a read-only view of the file.
        offsets: `[rows + 1]`: row i is `values[offsets[i]:offsets[i + 1]]`.
        present: `[rows]`: false where the row is null; None if no row is.
    """

    def __init__(self, column: pa.ListArray) -> None:
        self.values: np.ndarray = column.values.to_numpy(zero_copy_only=True)
        self.offsets: np.ndarray = column.offsets.to_numpy(zero_copy_only=True)
        self.present: np.ndarray | None = (
            column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
        )


def open_shard(folder: Path, entry: ShardEntry, *, rebuild: str) -> pa.Table:
    """Map a file after verifying its size and its head. It holds no file descriptor.

    Args:
        folder: The store.
        entry: What its metadata records.
        rebuild: What the user can do if the file is broken.

    Raises:
        InputError: The file is missing, cut short or changed in its head.
    """
    path = folder / entry.file
    check_size(folder, entry, rebuild=rebuild)
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
    if zlib.crc32(whole.slice(0, entry.head_bytes)) != entry.head_crc32:
        raise InputError(f"{path}: corrupt store shard: the checksum of its head differs; {rebuild}")
    table = pa.ipc.open_stream(whole).read_all()
    assert table.num_rows == entry.num_structures, f"{path}: {table.num_rows} rows, recorded {entry.num_structures}"
    return table


def verify_file(folder: Path, entry: ShardEntry, *, rebuild: str) -> None:
    """Compare the checksum of a whole file.

    Raises:
        InputError: The file is missing, cut short or changed.
    """
    path = folder / entry.file
    check_size(folder, entry, rebuild=rebuild)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise InputError(f"{path}: corrupt store shard: sha256 is {digest}, recorded was {entry.sha256}; {rebuild}")


def column_crc(column: pa.Array) -> int:
    """CRC-32 of everything that a column holds, whatever else lies in its buffers."""
    crc = 0
    for buffer in column.buffers():
        crc = zlib.crc32(b"absent" if buffer is None else buffer, crc)
    return crc


def check_size(folder: Path, entry: ShardEntry, *, rebuild: str) -> None:
    """Compare presence and size only: cheap, and a mapped file that is cut short would end the process.

    Raises:
        InputError: The file is missing or of another size.
    """
    path = folder / entry.file
    if not path.is_file():
        raise InputError(f"{path}: store shard is missing; {rebuild}")
    size = path.stat().st_size
    if size != entry.num_bytes:
        raise InputError(
            f"{path}: corrupt store shard: it has {size} bytes, recorded were {entry.num_bytes}; {rebuild}"
        )


def single_chunk(table: pa.Table, name: str) -> pa.Array:
    """A column as the one array that the file holds."""
    column = table.column(name)
    assert column.num_chunks == 1, f"column '{name}' has {column.num_chunks} chunks; a shard is one record batch"
    return column.chunk(0)
