"""`foundation export MODEL --to KIND`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.errors import InputError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

KINDS = ("directory",)


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("export", help="write a model for use elsewhere", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model directory or a hub id")
    parser.add_argument(
        "--to", metavar="KIND", required=True, choices=KINDS, help="'directory': weights (safetensors), config and card"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="must not exist yet; default: MODEL-KIND here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the model where it was asked for."""
    target = options.out or Path(f"{Path(options.model.partition('@')[0].rstrip('/')).name}-{options.to}")
    print(f"wrote {copy_model(options.model, target)}")


def copy_model(model: str, target: str | Path) -> Path:
    """Copy a model's files into a new directory, after loading it once to see that they are whole.

    Raises:
        InputError: It is no model, it is broken, or the target exists.
    """
    import shutil
    import tempfile

    from foundation.checkpoint import load
    from foundation.hub import MODEL_FILES, resolve_model

    target = Path(target)
    if target.exists():
        raise InputError(f"{target}: exists already; name a new directory")
    source = resolve_model(model)
    load(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copy-") as folder:
        staging = Path(folder) / "model"
        staging.mkdir()
        for name in MODEL_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, staging / name)
        staging.rename(target)
    return target
