"""`foundation hub list | pull ID | push MODEL ID`. For now an ID is a local directory; the hub proper is to come."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from foundation.errors import InputError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


PRETRAINING = "pretrain"
"""Folder of a run directory with the run that it started from, as `foundation.run` names it."""
RECIPE_FILE = "recipe.yaml"


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("hub", help="list, fetch and publish models", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the models in a directory", allow_abbrev=False)
    listing.add_argument("directory", metavar="DIR", nargs="?", default="runs", help="default: runs")
    listing.set_defaults(run=run_list)
    pull = actions.add_parser("pull", help="fetch a model", allow_abbrev=False)
    pull.add_argument("id", metavar="ID", help="a model directory, a URL, or org/name@revision")
    pull.set_defaults(run=run_pull)
    push = actions.add_parser("push", help="publish a model", allow_abbrev=False)
    push.add_argument("model", metavar="MODEL", help="a run directory or a model directory")
    push.add_argument("id", metavar="ID", help="a local directory, which must not exist yet")
    push.set_defaults(run=run_push)


def run_list(options: argparse.Namespace) -> None:
    """Print the models below a directory."""
    from pathlib import Path

    from foundation.hub import CONFIG_FILE, WEIGHTS_FILE

    root = Path(options.directory)
    if not root.is_dir():
        raise InputError(f"hub list: {root}: no such directory")
    found = sorted(file.parent for file in root.rglob(WEIGHTS_FILE) if (file.parent / CONFIG_FILE).is_file())
    for directory in found:
        model = directory.parent if directory.name == "model" else directory
        is_start = model.name == PRETRAINING and (model.parent / RECIPE_FILE).is_file()
        print(f"{model}  (where {model.parent} started from)" if is_start else model)
    if not found:
        print(f"no model below {root}")


def run_pull(options: argparse.Namespace) -> None:
    """Fetch a model, and print where it lies."""
    from foundation.hub import resolve_model

    print(resolve_model(options.id))


def run_push(options: argparse.Namespace) -> None:
    """Copy a model into a directory."""
    from foundation.commands.export import copy_model

    if "@" in options.id or "://" in options.id:
        raise InputError(
            f"hub push: got '{options.id}'; allowed for now: a local directory (a path). Publishing to the Hugging "
            "Face hub is not built yet: push to a directory and upload that with `huggingface-cli upload`"
        )
    print(f"wrote {copy_model(options.model, options.id)}")
