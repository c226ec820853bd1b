"""`foundation hub list | pull ID | push MODEL ID`. For now an ID is a local directory; the hub proper is to come."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


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
