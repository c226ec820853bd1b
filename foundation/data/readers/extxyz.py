"""Extended XYZ, read as it stands: keys keep their names, and sloppy quoting of `Properties="…"` is understood.

Format: https://github.com/libAtoms/extxyz. Positions and lattice are in Å by definition of the format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from typing import overload

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from foundation.data.card import ResolvedDataset
from foundation.data.files import DataFile
from foundation.data.readers.open_file import open_text
from foundation.data.readers.record import RawFrame
from foundation.data.readers.wanted import Wanted, everything
from foundation.errors import InputError

__all__ = ["parse_comment", "read_extxyz", "read_extxyz_frames"]

_PAIR = re.compile(
    r"""\s*(?P<key>"(?:\\.|[^"\\])*"|[^\s=,"]+)
        (?:\s*=\s*(?P<value>"(?:\\"|[^"])*"(?=[\s,]|$)|'[^']*'|\{[^}]*\}|\[[^=]*\](?=\s|$)|[^\s]+))?[\s,]*""",
    re.VERBOSE,
)
_PLAIN = "species:S:1:pos:R:3"
_INTEGER = re.compile(r"^[-+]?\d+$")
_TRUE, _FALSE = {"T", "True", "true", "TRUE"}, {"F", "False", "false", "FALSE"}


def read_extxyz(file: DataFile, dataset: ResolvedDataset, *, wanted: Wanted = everything) -> Iterator[RawFrame | None]:
    """Yield the frames of a file, None for those that are not wanted; errors count them from 0."""
    yield from read_extxyz_frames(file, limit=dataset.limit, wanted=wanted)


@overload
def read_extxyz_frames(file: DataFile, *, limit: int | None) -> Iterator[RawFrame]: ...
@overload
def read_extxyz_frames(file: DataFile, *, limit: int | None, wanted: Wanted) -> Iterator[RawFrame | None]: ...
def read_extxyz_frames(file: DataFile, *, limit: int | None, wanted: Wanted = everything) -> Iterator[RawFrame | None]:
    """Yield the first frames of a file, None for those that are not wanted: these are passed over unread.

    Raises:
        InputError: The file is broken; the message names the frame.
    """
    with open_text(file.path) as stream:
        index = 0
        while limit is None or index < limit:
            where = f"{file.path}: frame {index}"
            num_atoms = _num_atoms(stream, where)
            if num_atoms is None:
                return
            if wanted(index):
                yield _read_frame(stream, num_atoms, where, file.split)
            else:
                for _ in range(num_atoms + 1):
                    stream.readline()
                yield None
            index += 1


def _num_atoms(stream: TextIOWrapper, where: str) -> int | None:
    """What the first line of a frame says; None at the end of the file."""
    line = stream.readline()
    while line and not line.strip():
        line = stream.readline()
    if not line:
        return None
    if not line.strip().isdigit() or int(line) == 0:
        raise InputError(f"{where}: got '{line.strip()[:60]}' where the number of atoms must stand")
    return int(line)


def _read_frame(stream: TextIOWrapper, num_atoms: int, where: str, split: str | None) -> RawFrame:
    info = parse_comment(stream.readline(), where=where)
    lines = [stream.readline() for _ in range(num_atoms)]
    if not lines[-1].strip():
        raise InputError(f"{where}: the file ends within the frame's {num_atoms} atoms")
    columns = _columns(str(info.pop("Properties", _PLAIN)), where)
    arrays = _atom_arrays(lines, columns, where)
    positions = arrays.pop("pos", None)
    numbers = _numbers(arrays, where)
    if positions is None or positions.shape != (num_atoms, 3):
        raise InputError(f"{where}: Properties has no pos:R:3")
    cell = _cell(info, where)
    pbc = _pbc(info.pop("pbc", None), cell is not None, where)
    values: dict[str, object] = {**info, **arrays}
    return RawFrame(
        positions=positions.astype(np.float64),
        atomic_numbers=numbers,
        cell=cell,
        pbc=pbc,
        length_unit="Å",
        cell_unit="Å",
        values=values,
        available=tuple(values),
        split=split,
        where=where,
    )


def parse_comment(line: str, *, where: str) -> dict[str, object]:
    """Read the `key=value` pairs of a comment line; a key alone is True.

    Raises:
        InputError: A value that starts with `_JSON` is none.
    """
    info: dict[str, object] = {}
    for match in _PAIR.finditer(line.strip()):
        key = match["key"].strip('"')
        try:
            info[key] = True if match["value"] is None else _value(match["value"])
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: key '{key}': got {match['value']:.80}; allowed: JSON behind _JSON ({error})"
            ) from error
    return info


def _value(text: str) -> object:
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        text = text[1:-1].replace('\\"', '"')
    if text.startswith("_JSON "):
        return json.loads(text[len("_JSON ") :])
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text.replace("{", "[").replace("}", "]"))
        except json.JSONDecodeError:
            text = text.strip("[]{}")
    stripped = text.strip()
    if stripped in _TRUE:
        return True
    if stripped in _FALSE:
        return False
    if _INTEGER.match(stripped):
        return int(stripped)
    words = stripped.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return text
    if not numbers:
        return ""
    return numbers[0] if len(numbers) == 1 else np.array(numbers)


def _columns(text: str, where: str) -> list[tuple[str, str, int]]:
    parts = text.strip().split(":")
    if len(parts) % 3 or not all(kind in "SRIL" for kind in parts[1::3]) or not all(n.isdigit() for n in parts[2::3]):
        raise InputError(f"{where}: Properties={text}; allowed: name:type:columns triples with type S, R, I or L")
    return [(parts[i], parts[i + 1], int(parts[i + 2])) for i in range(0, len(parts), 3)]


def _atom_arrays(lines: list[str], columns: list[tuple[str, str, int]], where: str) -> dict[str, np.ndarray]:
    width = sum(count for _, _, count in columns)
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows):
        # A plain XYZ file without Properties may carry more columns; they have no name and are left alone.
        if len(row) < width or (len(row) > width and columns != _columns(_PLAIN, where)):
            raise InputError(f"{where}: atom line {number} has {len(row)} columns; allowed: {width}")
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for name, kind, count in columns:
        cells = [row[start : start + count] for row in rows]
        start += count
        try:
            if kind == "R":
                array = np.array(cells, dtype=np.float64)
            elif kind == "I":
                array = np.array(cells, dtype=np.int64)
            else:
                array = np.array(cells)
        except ValueError as error:
            raise InputError(f"{where}: column '{name}' holds something that is no number: {error}") from error
        arrays[name] = array[:, 0] if count == 1 else array
    return arrays


def _numbers(arrays: dict[str, np.ndarray], where: str) -> np.ndarray:
    species = arrays.pop("species", None)
    stated = arrays.pop("Z", None)
    if species is None:
        if stated is None:
            raise InputError(f"{where}: Properties has neither species nor Z")
        return np.asarray(stated, dtype=np.int64)
    numbers = []
    for symbol in species.tolist():
        number = int(symbol) if symbol.isdigit() else number_of_symbol.get(symbol, 0)
        if number < 1:
            raise InputError(f"{where}: '{symbol}' is no element")
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _cell(info: dict[str, object], where: str) -> np.ndarray | None:
    lattice = info.pop("Lattice", None)
    if lattice is None:
        return None
    try:
        array = np.asarray(lattice, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: Lattice: got {lattice!r}; allowed: 9 numbers") from error
    if array.size != 9:
        raise InputError(f"{where}: Lattice has {array.size} numbers; allowed: 9")
    return array.reshape(3, 3)


def _pbc(value: object, has_cell: bool, where: str) -> tuple[bool, bool, bool]:
    """As stated, else periodic exactly if there is a lattice, as the format defines."""
    if value is None:
        return (has_cell, has_cell, has_cell)
    if isinstance(value, bool):
        return (value, value, value)
    words = str(value).replace(",", " ").split()
    if len(words) != 3 or not all(word in _TRUE | _FALSE for word in words):
        raise InputError(f"{where}: pbc={value!r}; allowed: three of T and F")
    return (words[0] in _TRUE, words[1] in _TRUE, words[2] in _TRUE)
