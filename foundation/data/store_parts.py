"""A store in the making: chunks of its sources, each finished on its own, merged when all are there.

A source file is cut into chunks of a fixed number of frames, and each chunk becomes shards of its own. So the store is
the same, byte for byte, whoever made its chunks, in what order, and however often they were interrupted. A chunk counts
when its entry is there, which is written last.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from foundation.data.arrow_shard import verify_file
from foundation.data.card import DataFile, ResolvedDataset
from foundation.data.readers import Record, read_file
from foundation.data.readers.convert import Converter
from foundation.data.store_files import replace_file, sync_folder, writing
from foundation.data.store_format import Shard
from foundation.data.store_writer import PendingShard, write_metadata
from foundation.errors import InputError

CHUNK_FRAMES = 16_384
"""Frames of a chunk: some 20 MB of molecules."""
CHUNK_SMILES = 1_024
"""Molecules of a chunk where each needs a conformer: under a minute's work."""
CHUNK_BYTES = 1 << 28
"""Flat bytes after which a chunk begins another shard: what a process holds in memory."""
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Multiples of the golden ratio, whole parts taken off, fill the unit interval evenly from the first on."""
KEPT = "what is finished is kept and used by the next attempt"


class StoreParts:
    """The folder of a store in the making.

    Args:
        folder: Of this store alone.
        dataset: What is prepared.
        final: Where the store will lie, on the same file system.
    """

    def __init__(self, folder: Path, dataset: ResolvedDataset, *, final: Path) -> None:
        self.folder, self.final = folder, final
        self._dataset = dataset
        self._store, self._entries = folder / "store", folder / "entries"

    @property
    def _scratch(self) -> Path:
        """Where this process writes files that are not whole yet."""
        return self.folder / f"scratch-{socket.gethostname()}-{os.getpid()}"

    def make(self, *, part: int, of: int, threads: int, on_record: Callable[[], None] | None) -> None:
        """Make those chunks that fall to one part and are not there yet.

        Every part takes an equal share of the bytes of all files; of a file that several parts share, each takes its
        share of the chunks and passes over the others.

        Args:
            part: From 0 to `of` - 1.
            of: Parts in all; chosen anew at every attempt.
            threads: That make conformers.
            on_record: Called after each structure.

        Raises:
            InputError: The source does not hold what it should; the disk is full.
        """
        with self._writing():
            for folder in (self._store, self._entries, self._scratch):
                folder.mkdir(parents=True, exist_ok=True)
        try:
            converter = Converter(self._dataset)
            for number, share in enumerate(_shares([file.path for file in self._dataset.files], part, of)):
                if share.low < share.high:
                    self._make_file(number, share, converter=converter, threads=threads, on_record=on_record)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def merge(self, *, metadata: Mapping[str, Any]) -> tuple[int, int]:
        """Verify every shard, make a store of them and put it in its place.

        Args:
            metadata: JSON values to keep with the data.

        Returns:
            Structures in the store, and structures left out because a label exceeds `drop_above`.

        Raises:
            InputError: Chunks are missing or damaged, or there are no structures; the disk is full.
            FileExistsError: Another process finished first.
        """
        entries = self._all_entries()
        shards = [Shard.from_json(shard) for entry in entries for shard in entry["shards"]]
        if not shards:
            self.remove()
            names = ", ".join(str(file.path) for file in self._dataset.files)
            raise InputError(f"data '{self._dataset.name}': {names} hold no structure")
        for shard in shards:
            for entry in (shard.structures, shard.index):
                verify_file(self._store, entry, rebuild=f"delete '{self.folder}' and prepare the data again")
        known = {entry.file for shard in shards for entry in (shard.structures, shard.index)}
        if self.final.exists():
            raise FileExistsError(f"{self.final} exists")
        with self._writing():
            for stranger in {path.name for path in self._store.iterdir()} - known:
                (self._store / stranger).unlink()
            write_metadata(self._store, shards, level_of_theory=self._dataset.level_of_theory, metadata=metadata)
            sync_folder(self._store)
            self.final.parent.mkdir(parents=True, exist_ok=True)
            self._store.rename(self.final)
            sync_folder(self.final.parent)
        self.remove()
        return sum(shard.structures.num_structures for shard in shards), sum(entry["dropped"] for entry in entries)

    def remove(self) -> None:
        """Delete whatever is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_file(
        self,
        number: int,
        share: _Share,
        *,
        converter: Converter,
        threads: int,
        on_record: Callable[[], None] | None,
    ) -> None:
        size = self._chunk_size(self._dataset.files[number])
        there = self._finished(number)
        end = self._end(number)
        if end is not None and all(chunk in there for chunk in range(-(-end // size)) if chunk in share):
            return

        def wanted(frame: int) -> bool:
            chunk = frame // size
            return chunk in share and chunk not in there

        making: _Chunk | None = None
        frames = 0
        for frame, record in read_file(
            self._dataset.files[number], self._dataset, converter=converter, wanted=wanted, workers=threads
        ):
            frames = frame + 1
            if not wanted(frame):
                continue
            if making is None or making.chunk != frame // size:
                self._save(number, making)
                making = _Chunk(f"{number:05d}-{frame // size:06d}", frame // size)
            if record is None:
                making.dropped += 1
            else:
                making.add(record)
                if making.num_bytes >= CHUNK_BYTES:
                    self._write(making)
                if on_record is not None:
                    on_record()
        self._save(number, making)
        with self._writing():
            replace_file(self._entries / f"{number:05d}.json", json.dumps({"frames": frames}).encode())

    def _write(self, making: _Chunk) -> None:
        with self._writing():
            for shard in making.write(self._scratch):
                for entry in (shard.structures, shard.index):
                    (self._scratch / entry.file).replace(self._store / entry.file)

    def _save(self, number: int, making: _Chunk | None) -> None:
        """Finish a chunk."""
        if making is None:
            return
        self._write(making)
        entry = {"shards": [dataclasses.asdict(shard) for shard in making.shards], "dropped": making.dropped}
        with self._writing():
            sync_folder(self._store)
            replace_file(self._entries / f"{number:05d}-{making.chunk:06d}.json", json.dumps(entry).encode())

    def _finished(self, number: int) -> set[int]:
        """Chunks of a file that are there, as far as sizes tell; merging compares checksums."""
        return {
            int(path.stem.rpartition("-")[2])
            for path in self._entries.glob(f"{number:05d}-*.json")
            if all(
                (self._store / shard[part]["file"]).is_file()
                and (self._store / shard[part]["file"]).stat().st_size == shard[part]["num_bytes"]
                for shard in json.loads(path.read_bytes())["shards"]
                for part in ("structures", "index")
            )
        }

    def _end(self, number: int) -> int | None:
        """Frames of a file, if it was gone through to its end."""
        path = self._entries / f"{number:05d}.json"
        return json.loads(path.read_bytes())["frames"] if path.is_file() else None

    def _all_entries(self) -> list[dict[str, Any]]:
        entries, missing = [], []
        for number, file in enumerate(self._dataset.files):
            end = self._end(number)
            if end is None:
                missing.append(f"{file.path}: nobody has read it to its end")
                continue
            there = self._finished(number)
            chunks = range(-(-end // self._chunk_size(file)))
            absent = [chunk for chunk in chunks if chunk not in there]
            if absent:
                missing.append(f"{file.path}: {len(absent)} of {len(chunks)} chunks, first {absent[0]}")
            else:
                entries += [
                    json.loads((self._entries / f"{number:05d}-{chunk:06d}.json").read_bytes()) for chunk in chunks
                ]
        if missing:
            raise InputError(
                [
                    f"data '{self._dataset.name}': {len(missing)} of {len(self._dataset.files)} source files are not "
                    "prepared to the end; prepare every shard, or run it without --merge, which makes what is missing",
                    *missing[:5],
                ]
            )
        return entries

    def _chunk_size(self, file: DataFile) -> int:
        makes_conformers = file.format == "smiles" or (file.format == "parquet" and self._dataset.arrays is None)
        return CHUNK_SMILES if makes_conformers else CHUNK_FRAMES

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.final, kept=KEPT)


class _Chunk:
    """A chunk being made.

    Args:
        name: What tells its files from others.
        chunk: Its number in the file.

    Attributes:
        shards: Those that are written.
        dropped: Structures left out.
    """

    def __init__(self, name: str, chunk: int) -> None:
        self._name, self.chunk = name, chunk
        self._pending = PendingShard()
        self.shards: list[Shard] = []
        self.dropped = 0

    @property
    def num_bytes(self) -> int:
        """Flat bytes that wait."""
        return self._pending.num_bytes

    def add(self, record: Record) -> None:
        """Validate a structure and take it in."""
        self._pending.add(record)

    def write(self, folder: Path) -> list[Shard]:
        """Write what waits."""
        if not len(self._pending):
            return []
        suffix = f"-{len(self.shards):02d}" if self.shards else ""
        shard = self._pending.write(folder, self._name + suffix)
        self.shards.append(shard)
        return [shard]


def _shares(paths: Sequence[Path], part: int, of: int) -> list[_Share]:
    """Which fraction of the chunks of each file falls to a part: where its equal interval of all bytes lies in it."""
    sizes = [path.stat().st_size for path in paths]
    first, last = part * sum(sizes) / of, (part + 1) * sum(sizes) / of
    shares, start = [], 0
    for size in sizes:
        if size == 0:  # nothing to share, but somebody has to see that
            shares.append(_Share(0.0, float(part == 0)))
            continue
        low, high = (min(1.0, max(0.0, (bound - start) / max(1, size))) for bound in (first, last))
        shares.append(_Share(low, 1.0 if part == of - 1 and high > low else high))
        start += size
    return shares


@dataclasses.dataclass(frozen=True)
class _Share:
    """The chunks that fall to one part: spread over the file, so that any number of them is shared out evenly."""

    low: float
    high: float

    def __contains__(self, chunk: int) -> bool:
        return self.low <= chunk * _GOLDEN % 1.0 < self.high
