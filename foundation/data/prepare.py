"""From a data set's description to its opened store: read once, then found again by content.

Making a store can be interrupted at any moment, and divided between processes of one machine or of a cluster: see
`foundation.data.store_parts`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.data.card import ResolvedDataset
from foundation.data.prepare_workers import make_in_processes
from foundation.data.readers.open_file import check_digest
from foundation.data.source_digest import source_digests
from foundation.data.store import Store
from foundation.data.store_files import locked, writing
from foundation.data.store_format import FORMAT_VERSION
from foundation.data.store_parts import StoreParts
from foundation.data.stored import DESCRIPTION, describe
from foundation.errors import InputError
from foundation.threads import available_cores

_READING_CODE = (
    "conformers.py",
    "electrons.py",
    "fields.py",
    "layout.py",
    "store_parts.py",
    "store_writer.py",
    "arrow_shard.py",
)
_LOGGER = logging.getLogger(__name__)
_LARGE_BYTES = 1 << 25
"""Of source files: below that starting processes takes longer than they save."""
_NOT_CONTENT = {
    "name",
    "files",
    "split",
    "licence",
    "citation",
    "isolated_atoms",
    "isolated_atoms_file",
    "checksums_skipped",
    "dispersion",
    "store",
}
"""Fields of a description that do not change what the store holds; of the files the content counts, not the place."""


def default_cache_dir() -> Path:
    """The folder of prepared stores: FOUNDATION_CACHE, else ~/.cache/foundation."""
    stated = os.environ.get("FOUNDATION_CACHE")
    return Path(stated).expanduser() if stated else Path.home() / ".cache" / "foundation"


def default_workers(dataset: ResolvedDataset) -> int:
    """Processes worth starting for a data set: one a core where its files are large, else one."""
    num_bytes = sum(file.path.stat().st_size for file in dataset.files)
    return available_cores() if num_bytes > _LARGE_BYTES else 1


def prepare(
    dataset: ResolvedDataset,
    *,
    cache_dir: Path | None = None,
    workers: int = 1,
    on_record: Callable[[], None] | None = None,
) -> Store:
    """Open the store of a data set; make it first, or what is missing of it, if it is not there yet.

    A store is found by the content of the source files and by all that decides how they are read, so an edited file,
    card or reader makes a new one. Splits, licence and reference energies do not count.

    Args:
        dataset: What `foundation.data.card.resolve` gave.
        cache_dir: Where stores lie; `default_cache_dir()` if None.
        workers: Processes that make it; with 1 it is made in this one. Their number changes nothing in the result.
        on_record: Called after each structure that is read, to show progress.

    Raises:
        InputError: A source file is not what its card was tested on, does not hold what the card says, or holds invalid
            structures; the disk is full; the store is corrupt; a process was killed.
    """
    if dataset.store is not None:
        return Store.open(dataset.store, cache_dir=cache_dir or default_cache_dir())
    place = _place(dataset, cache_dir or default_cache_dir(), first=0)
    if place.store.exists():
        return Store.open(place.store)
    with place.locked(shared=False):
        if not place.store.exists():
            _make(dataset, place, parts=range(workers), of=workers, on_record=on_record, alone=True)
            _merge(dataset, place)
    return Store.open(place.store)


def prepare_shard(
    dataset: ResolvedDataset,
    *,
    shard: int,
    of: int,
    cache_dir: Path | None = None,
    workers: int = 1,
    on_record: Callable[[], None] | None = None,
) -> Path | None:
    """Make one of `of` equal parts of a store; `merge` or `prepare` makes the store of them when all are there.

    Args:
        dataset: What `foundation.data.card.resolve` gave.
        shard: From 0 to `of` - 1.
        of: Number of parts; another number at another attempt loses nothing.
        cache_dir: Where stores lie, seen by all who make parts; `default_cache_dir()` if None.
        workers: Processes that share this part.
        on_record: Called after each structure that is read, to show progress.

    Returns:
        The store, if it is complete already; else None.

    Raises:
        InputError: As `prepare`; or no such part.
    """
    if not 0 <= shard < of:
        raise InputError(f"--shard {shard} --of {of}: no such part; allowed: --shard 0 to {of - 1}")
    place = _place(dataset, cache_dir or default_cache_dir(), first=shard * len(dataset.files) // of)
    if place.store.exists():
        return place.store
    with place.locked(shared=True):
        if place.store.exists():
            return place.store
        parts = range(shard * workers, (shard + 1) * workers)
        _make(dataset, place, parts=parts, of=of * workers, on_record=on_record, alone=False)
    return None


def merge(dataset: ResolvedDataset, *, cache_dir: Path | None = None) -> Store:
    """Make a store of the parts that `prepare_shard` made, every shard's checksum compared.

    Raises:
        InputError: Parts are missing or damaged; the disk is full.
    """
    place = _place(dataset, cache_dir or default_cache_dir(), first=0)
    with place.locked(shared=False):
        if not place.store.exists():
            _merge(dataset, place)
    return Store.open(place.store)


@dataclass(frozen=True)
class _Place:
    """Where the store of a data set lies, and where it is made.

    Attributes:
        store: The store.
        parts: The folder of its parts.
        digests: SHA-256 of the source files.
    """

    store: Path
    parts: Path
    digests: tuple[str, ...]

    @contextlib.contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Wait for others that make the same store; those that make a part of it share."""
        file = self.parts.with_name(f"{self.parts.name}.lock")
        with writing(self.store):
            file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file, shared=shared):
            yield
            if self.store.exists():
                file.unlink(missing_ok=True)


def _place(dataset: ResolvedDataset, cache_dir: Path, *, first: int) -> _Place:
    digests = source_digests([file.path for file in dataset.files], cache_dir=cache_dir, first=first)
    for file, digest in zip(dataset.files, digests, strict=True):
        check_digest(file, digest)
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", dataset.files[0].path.stem)[:40]
    name = f"{label}-{_key(dataset, digests)}"
    return _Place(store=cache_dir / "stores" / name, parts=cache_dir / "parts" / name, digests=tuple(digests))


def _make(
    dataset: ResolvedDataset,
    place: _Place,
    *,
    parts: range,
    of: int,
    on_record: Callable[[], None] | None,
    alone: bool,
) -> None:
    making = StoreParts(place.parts, dataset, final=place.store)
    try:
        if len(parts) == 1:
            making.make(part=parts[0], of=of, threads=available_cores(), on_record=on_record)
        else:
            make_in_processes(making, parts_of=parts, of=of, on_record=on_record)
    except InputError as error:
        # A source at fault will be another one when it is corrected; a full disk or a killed process goes on from here.
        if alone and not isinstance(error.__cause__, OSError):
            making.remove()
        raise


def _merge(dataset: ResolvedDataset, place: _Place) -> None:
    files = {str(file.path): digest for file, digest in zip(dataset.files, place.digests, strict=True)}
    metadata: Mapping[str, Any] = {
        "name": dataset.name,
        "licence": dataset.licence,
        "citation": list(dataset.citation),
        "files": files,
        DESCRIPTION: describe(dataset),
    }
    kept, dropped = StoreParts(place.parts, dataset, final=place.store).merge(metadata=metadata)
    if dropped:
        _LOGGER.warning(
            "data '%s': %d of %d structures left out: a label exceeds drop_above, or there is no conformer",
            dataset.name,
            dropped,
            kept + dropped,
        )


def _key(dataset: ResolvedDataset, digests: list[str]) -> str:
    reading = dataset.model_dump(mode="json", exclude=_NOT_CONTENT)
    files = [[file.path.name, file.split, digest] for file, digest in zip(dataset.files, digests, strict=True)]
    text = json.dumps([FORMAT_VERSION, _readers_digest(), reading, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@functools.cache
def _readers_digest() -> str:
    """Changes with the code that turns files into records: a corrected reader must not find what the wrong one left."""
    data = Path(__file__).resolve().parent
    sources = [*data.glob("readers/*.py"), *(data / name for name in _READING_CODE), data.parent / "units.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
