"""Find the files of a data set: under the data root, in the package, or where the user says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from foundation.config import Config
from foundation.data.splits import SPLITS
from foundation.errors import InputError

__all__ = ["DataFile", "Format", "Paths", "data_root", "expand_source", "find_files", "is_data_file"]

Format = Literal["extxyz", "ase", "npz", "cif", "sdf", "smiles", "parquet"]
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".db": "ase",
    ".traj": "ase",
    ".npz": "npz",
    ".cif": "cif",
    ".sdf": "sdf",
    ".mol": "sdf",
    ".smi": "smiles",
    ".csv": "smiles",
    ".parquet": "parquet",
}
_COMPRESSIONS = (".gz", ".xz", ".bz2")
PACKAGE_PREFIX = "package:"
"""A source that starts so lies in foundation/data/embedded."""

Paths = str | tuple[str, ...]


class DataFile(Config):
    """One file to read.

    Attributes:
        path: Absolute.
        format: Which reader reads it.
        split: The split that the card or recipe gives all its structures, if any.
        sha256: What its content must be, if known.
    """

    path: Path
    format: Format
    split: Literal["train", "val", "test"] | None
    sha256: str | None


def data_root() -> Path | None:
    """The folder that shipped cards' sources are relative to: FOUNDATION_DATA, else ../shared/data beside the working
    directory or the checkout, else None."""
    stated = os.environ.get("FOUNDATION_DATA")
    if stated:
        return Path(stated).resolve()
    checkout = Path(__file__).resolve().parents[2]
    for base in (Path.cwd(), checkout):
        candidate = base.parent / "shared" / "data"
        if candidate.is_dir():
            return candidate.resolve()
    return None


def is_data_file(path: Path) -> bool:
    """Whether the ending is that of a format which is read."""
    return _bare_suffix(path) in _FORMAT_OF_SUFFIX


def _format_of(path: Path, called: str) -> Format:
    """The format that a file's ending tells.

    Raises:
        InputError: It tells none.
    """
    found = _FORMAT_OF_SUFFIX.get(_bare_suffix(path))
    if found is None:
        raise InputError(
            f"data '{called}': the ending of {path.name} tells no format; state format: "
            f"{', '.join(sorted(set(_FORMAT_OF_SUFFIX.values())))}"
        )
    return found


def _bare_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def find_files(
    source: Paths | Mapping[Literal["train", "val", "test"], Paths],
    *,
    stated: Format | None,
    checksums: Mapping[str, str],
    from_card: bool,
    card: Mapping[str, Any],
    called: str,
) -> tuple[DataFile, ...]:
    by_split: dict[Any, Paths]
    by_split = (
        {part: source[part] for part in SPLITS if part in source} if isinstance(source, Mapping) else {None: source}
    )
    files = []
    for split, patterns in by_split.items():
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            for path in expand_source(pattern, from_card=from_card, card=card, called=called):
                known = [value for name, value in checksums.items() if path.as_posix().endswith("/" + name)]
                if checksums and not known:
                    raise InputError(f"data '{called}': {path} is not among the files that the card was written for")
                files.append(
                    DataFile(
                        path=path,
                        format=stated or _format_of(path, called),
                        split=split,
                        sha256=known[0] if known else None,
                    )
                )
    if not files:
        raise InputError(f"data '{called}': source: names no file")
    return tuple(files)


def expand_source(pattern: str, *, from_card: bool, card: Mapping[str, Any], called: str) -> list[Path]:
    """Absolute paths of one entry of `source`."""
    if pattern.startswith(PACKAGE_PREFIX):
        base: Path | None = Path(__file__).resolve().parent / "embedded"
        pattern = pattern.removeprefix(PACKAGE_PREFIX)
    else:
        base = data_root() if from_card else Path.cwd()
    urls = "".join(
        f"\n  {entry['url']}" + (f" ({entry['note']})" if entry.get("note") else "") for entry in card.get("urls", ())
    )
    advice = f"; the data can be had from:{urls}" if from_card and urls else ""
    path = Path(pattern).expanduser()
    if not path.is_absolute():
        if base is None:
            raise InputError(
                f"data '{called}': set FOUNDATION_DATA to the folder that holds {pattern}, or give source{advice}"
            )
        path = base / path
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name))
        if not found:
            raise InputError(f"data '{called}': no file matches {path}{advice}")
        return [entry.resolve() for entry in found]
    if not path.is_file():
        raise InputError(f"data '{called}': {path}: no such file{advice}")
    return [path.resolve()]
