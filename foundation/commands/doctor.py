"""`foundation doctor`: does this machine have what the program needs?"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

NEEDED = (
    *("numpy", "torch", "lightning", "torch-geometric", "torchmetrics", "e3nn", "ase", "rdkit", "datasets"),
    *("safetensors", "vesin", "pydantic", "matplotlib"),
)
OPTIONAL = {"tblite": "labels molecules in `foundation data generate`"}
_MODULES = {"torch-geometric": "torch_geometric"}


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("doctor", help="check the installation and the machine", allow_abbrev=False)
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    """Print what was found.

    Raises:
        InputError: Something that is needed is missing.
    """
    from foundation.errors import InputError
    from foundation.resources import data_cards_dir, recipes_dir
    from foundation.threads import available_cores, tune_allocator

    problems = []
    print(f"foundation   {version('foundation')}, Python {platform.python_version()} at {sys.executable}")
    print(f"machine      {platform.platform()}, {available_cores()} cores usable")
    for package in NEEDED:
        try:
            importlib.import_module(_MODULES.get(package, package))
            print(f"package      {package} {version(package)}")
        except (ImportError, PackageNotFoundError) as error:
            problems.append(f"package '{package}': {error}; install foundation again")
    for package, use in OPTIONAL.items():
        try:
            print(f"package      {package} {version(package)}")
        except PackageNotFoundError:
            print(f"package      {package} absent: {use}")
    if not problems:
        _accelerators()
    print(f"allocator    {'freed memory is kept (faster)' if tune_allocator() else 'as the system has it'}")
    print(f"recipes      {recipes_dir()}")
    print(f"data cards   {data_cards_dir()}")
    _disk()
    if problems:
        raise InputError(problems)
    print("All that is needed is here.")


def _accelerators() -> None:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"accelerator  {torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda}")
    else:
        print(f"accelerator  none; {torch.get_num_threads()} threads on the CPU")


def _disk() -> None:
    cache = Path(os.environ.get("FOUNDATION_CACHE", "~/.cache/foundation")).expanduser()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = "writable" if os.access(existing, os.W_OK) else "NOT WRITABLE: set FOUNDATION_CACHE"
    print(f"cache        {cache}: {free:.1f} GB free, {writable}")
