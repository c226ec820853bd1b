"""Readers: one file a format; units are converted in `convert` and nowhere else."""

from __future__ import annotations

from foundation.data.readers.read import read_file, read_isolated_atoms, read_records
from foundation.data.readers.record import Record

__all__ = ["Record", "read_file", "read_isolated_atoms", "read_records"]
