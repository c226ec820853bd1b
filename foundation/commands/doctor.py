"""`foundation doctor`: does this machine have what the program needs?"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

OPTIONAL = {
    "generate": "labels molecules in `foundation data generate`",
    "dispersion": "adds D3(BJ) dispersion where a recipe has model.dispersion",
    "wandb": "sends metrics to Weights & Biases where a recipe has wandb",
}
"""Extras of the package that add to what it can do -> what."""
_NAME = re.compile(r"^[\w.-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)""")


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
    modules = _modules()
    for package in requirements(extra=None):
        try:
            importlib.import_module(modules.get(_normalised(package), package))
            print(f"package      {package} {version(package)}")
        except (ImportError, PackageNotFoundError) as error:
            problems.append(f"package '{package}': {error}; install foundation again")
    for extra, use in OPTIONAL.items():
        for package in requirements(extra=extra):
            try:
                print(f"package      {package} {version(package)}")
            except PackageNotFoundError:
                print(f"package      {package} absent: {use}; pip install {package}")
    if not problems:
        _accelerators()
        _kernels()
    print(f"allocator    {'freed memory is kept (faster)' if tune_allocator() else 'as the system has it'}")
    print(f"recipes      {recipes_dir()}")
    print(f"data cards   {data_cards_dir()}")
    _disk()
    if problems:
        raise InputError(problems)
    print("All that is needed is here.")


def requirements(*, extra: str | None) -> list[str]:
    """Names of the packages that foundation's own metadata requires: always (None), or for one of its extras."""
    found = []
    for requirement in requires("foundation") or ():
        stated, name = _EXTRA.search(requirement), _NAME.match(requirement)
        assert name is not None, requirement
        if (stated and stated.group(1)) == extra:
            found.append(name.group())
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _modules() -> dict[str, str]:
    """Package -> what it is imported as: the module that is called like it, else its first public one."""
    found: dict[str, str] = {}
    for module, packages in sorted(packages_distributions().items()):
        for package in map(_normalised, packages):
            if _normalised(module) == package or (package not in found and not module.startswith("_")):
                found[package] = module
    return found


def _accelerators() -> None:
    import torch

    from foundation.wording import counted

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"accelerator  {torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda}")
    else:
        print(f"accelerator  none; {counted(torch.get_num_threads(), 'thread')} on the CPU")


def _kernels() -> None:
    from foundation.nn import bilinear, neighbor_sum, sparse_map, splines

    complete = all(part.has_kernel() for part in (neighbor_sum, splines, bilinear, sparse_map))
    print(
        "kernels      "
        + ("built for this processor" if complete else "not all: torch's operators take their place, more slowly")
    )


def _disk() -> None:
    from foundation.resources import cache_dir

    cache = cache_dir()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = "writable" if os.access(existing, os.W_OK) else "NOT WRITABLE: set FOUNDATION_CACHE"
    print(f"cache        {cache}: {free:.1f} GB free, {writable}")
