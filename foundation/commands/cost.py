"""`foundation cost [RECIPE …] [--device cpu] [--compile] [--json FILE]`: what sizes of models cost on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from foundation.backbones import BackboneConfig

SIZES = ("backbones/xxs", "backbones/xs", "backbones/s", "backbones/m", "backbones/l")


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser(
        "cost", help="parameters, operations, memory and time of model sizes", allow_abbrev=False
    )
    parser.add_argument(
        "recipes",
        metavar="RECIPE",
        nargs="*",
        default=SIZES,
        help=f"names under recipes/, or files, that state model.backbone; default: {' '.join(SIZES)}",
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--compile", action="store_true", help="time the compiled model; takes minutes a size")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print a table.

    Raises:
        InputError: An unknown recipe, one without a backbone, or a device that is not there; nothing was measured then.
    """
    from foundation.devices import usable_device
    from foundation.errors import InputError
    from foundation.threads import set_threads

    backbones = stated_backbones(options.recipes)
    device = usable_device(options.device)
    machine = _machine(str(device), threads=set_threads(None), compiled=options.compile)
    if options.json is not None and not options.json.parent.is_dir():  # told before the minutes of measuring
        raise InputError(f"--json: no folder '{options.json.parent}'; allowed: a file in a folder that exists")

    from foundation.cost import cost_of, describe_costs

    costs = []
    for name, backbone in backbones.items():
        print(f"measuring {name}", file=sys.stderr, flush=True)
        costs.append(cost_of(name, backbone, device=device, compiled=options.compile))
    print(describe_costs(costs))
    print(_explanation(machine))
    if options.json is not None:
        from dataclasses import asdict

        document = {"machine": machine, "sizes": [asdict(cost) for cost in costs]}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def stated_backbones(recipes: Sequence[str]) -> dict[str, BackboneConfig]:
    """Recipe -> the backbone that it states; the rest of a recipe is not looked at.

    Raises:
        InputError: Every recipe that is unknown or states none.
    """
    from foundation.config import resolve_extends, validate
    from foundation.errors import InputError
    from foundation.recipe import ModelSection
    from foundation.resources import recipes_dir

    found: dict[str, BackboneConfig] = {}
    problems: list[str] = []
    for recipe in recipes:
        try:
            section = resolve_extends(recipe, search=recipes_dir()).get("model")
            if not isinstance(section, dict) or "backbone" not in section:
                problems.append(f"recipe '{recipe}': states no model.backbone; allowed: {', '.join(SIZES)}, or a file")
                continue
            found[recipe] = validate(ModelSection, section, where=f"recipe '{recipe}', model").backbone
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def _machine(device: str, *, threads: int, compiled: bool) -> dict[str, Any]:
    import torch

    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "compiled": compiled,
    }


def _explanation(machine: dict[str, Any]) -> str:
    from foundation.wording import counted

    mode = "compiled" if machine["compiled"] else "eager"
    return (
        f"\n{machine['device']}, {counted(machine['threads'], 'thread')}, torch {machine['torch']}, times {mode}, "
        f"float32; load of the machine before: {machine['load']}\n"
        "aspirin, water: energy and forces. step: energies, forces, loss, gradients, AdamW.\n"
        "GFLOP: 10⁹ operations of matrix products, eager. peak MB: 10⁶ bytes in tensors at once, weights included."
    )
