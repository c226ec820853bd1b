"""How a store is laid out: names, columns, what its metadata record of a shard; writing and reading share it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundation.data.arrow_shard import ShardEntry

FORMAT_VERSION = 2
METADATA_FILE = "metadata.json"
TARGET_PREFIX = "target."
SCALARS = {"pbc": np.uint8, "total_charge": np.float64, "spin_multiplicity": np.int32}
"""Columns of one number a structure."""
LISTS = {"positions": np.float64, "atomic_numbers": np.uint8, "cell": np.float64}
"""Columns of flat arrays; behind them come the labels, in the order of the table of properties."""
CHECKSUM_COLUMN = "crc32"


@dataclass(frozen=True)
class Shard:
    """What a store's metadata records of one shard.

    Attributes:
        structures: The file of structures.
        index: The file of their index.
        index_crc32: Column of the index -> CRC-32 of what it holds, so that each is verified when it is first used.
        properties: Labelled in it.
        elements: Atomic numbers that occur, ascending.
        max_atoms: Of its largest structure.
        splits_given: Whether the source states a split of any of its structures.
    """

    structures: ShardEntry
    index: ShardEntry
    index_crc32: Mapping[str, int]
    properties: tuple[str, ...]
    elements: tuple[int, ...]
    max_atoms: int
    splits_given: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Shard:
        """What `dataclasses.asdict` gave, through JSON."""
        return cls(
            structures=ShardEntry(**content["structures"]),
            index=ShardEntry(**content["index"]),
            index_crc32=dict(content["index_crc32"]),
            properties=tuple(content["properties"]),
            elements=tuple(content["elements"]),
            max_atoms=content["max_atoms"],
            splits_given=content["splits_given"],
        )


def checksum(content: Mapping[str, Any]) -> str:
    """Digest of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def row_crc(arrays: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of the columns of one structure, in the order of the mapping."""
    crc = 0
    for values in arrays.values():
        # An array is a buffer; by way of its `data` it takes twice as long.
        crc = zlib.crc32(values, crc)  # pyright: ignore[reportArgumentType]
    return crc
