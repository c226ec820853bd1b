"""Where the shipped recipes, data cards and Slurm scripts lie: beside the package in a checkout, in it in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "data_cards_dir", "recipes_dir", "slurm_dir"]

_PACKAGE = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """Where what can be made again is kept: `$FOUNDATION_CACHE`, else `~/.cache/foundation`."""
    return Path(os.environ.get("FOUNDATION_CACHE", "~/.cache/foundation")).expanduser()


def recipes_dir() -> Path:
    """Return the folder of the shipped recipes (`base.yaml`, `backbones/`, …).

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    return _shipped_folder("recipes")


def data_cards_dir() -> Path:
    """Return the folder of the shipped data cards, one YAML file a data set.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    return _shipped_folder("data_cards")


def slurm_dir() -> Path:
    """Return the folder of the scripts for Slurm.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    return _shipped_folder("slurm")


def _shipped_folder(name: str) -> Path:
    """Return the copy that the wheel carries, else the checkout's own folder."""
    installed = _PACKAGE / "_shipped" / name
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise FileNotFoundError(
        f"the folder '{name}' that ships with foundation is neither at {installed} nor at {checkout / name}; "
        "install foundation again"
    )
