"""From a data set's description to its opened store: read once, then found again by content."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from foundation.data.card import ResolvedDataset
from foundation.data.readers import Record, read_records
from foundation.data.store import Store
from foundation.data.store_writer import FORMAT_VERSION
from foundation.errors import InputError

_READING_CODE = ("conformers.py", "electrons.py", "fields.py", "layout.py", "store_writer.py", "arrow_shard.py")
_READ_BYTES = 1 << 24
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
}
"""Fields of a description that do not change what the store holds; of the files the content counts, not the place."""


def default_cache_dir() -> Path:
    """The folder of prepared stores: FOUNDATION_CACHE, else ~/.cache/foundation."""
    stated = os.environ.get("FOUNDATION_CACHE")
    return Path(stated).expanduser() if stated else Path.home() / ".cache" / "foundation"


def prepare(
    dataset: ResolvedDataset, *, cache_dir: Path | None = None, on_record: Callable[[], None] | None = None
) -> Store:
    """Open the store of a data set; make it first if it is not there yet.

    A store is found by the content of the source files and by all that decides how they are read, so an edited file,
    card or reader makes a new one. Splits, licence and reference energies do not count.

    Args:
        dataset: What `foundation.data.card.resolve` gave.
        cache_dir: Where stores lie; `default_cache_dir()` if None.
        on_record: Called after each structure that is read, to show progress.

    Raises:
        InputError: A source file is not what its card was tested on, does not hold what the card says, or holds invalid
            structures; the disk is full; the store is corrupt.
    """
    digests = [_file_sha256(file.path) for file in dataset.files]
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", dataset.files[0].path.stem)[:40]
    path = (cache_dir or default_cache_dir()) / "stores" / f"{label}-{_key(dataset, digests)}"
    if path.exists():
        return Store.open(path)
    try:
        return Store.create(
            path,
            _watched(read_records(dataset), on_record),
            level_of_theory=dataset.level_of_theory,
            metadata={
                "name": dataset.name,
                "licence": dataset.licence,
                "citation": list(dataset.citation),
                "files": {str(file.path): digest for file, digest in zip(dataset.files, digests, strict=True)},
            },
        )
    except FileExistsError:
        return Store.open(path)


def _watched(records: Iterator[Record], on_record: Callable[[], None] | None) -> Iterator[Record]:
    for record in records:
        yield record
        if on_record is not None:
            on_record()


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


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
