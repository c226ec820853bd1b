"""`foundation slurm submit RECIPE --nodes N --gpus N --time … [--dry-run]`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

DESCRIPTION = """Submit slurm/train.sbatch with a recipe: prints the command, checks the recipe, and hands it to sbatch.

Other options of sbatch: --sbatch=--account=me --sbatch=--constraint=a100."""
_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
"""What sbatch takes: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments."""
    parser = subparsers.add_parser("slurm", help="train on a Slurm cluster", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    submit = actions.add_parser(
        "submit",
        help="submit a training job",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    submit.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
    submit.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as of `foundation train`")
    submit.add_argument("--out", metavar="DIR", type=Path, help="run directory (default: runs/<name of the recipe>)")
    submit.add_argument("--nodes", metavar="N", type=int, default=1, help="default: 1")
    submit.add_argument("--gpus", metavar="N", type=int, required=True, help="on each node, a task each; 0: CPUs only")
    submit.add_argument("--time", metavar="LIMIT", required=True, help="as of sbatch: 1-12:00:00, 08:00:00, minutes")
    submit.add_argument("--partition", metavar="NAME", help="default: the cluster's")
    submit.add_argument("--cpus", metavar="N", type=int, default=8, help="cores of each task (default: 8)")
    submit.add_argument("--sbatch", metavar="OPTION", action="append", default=[], help="for sbatch: --sbatch=--qos=x")
    submit.add_argument("--dry-run", action="store_true", help="print and check, submit nothing")
    submit.set_defaults(run=run_submit)


def run_submit(options: argparse.Namespace) -> None:
    """Print the command; check; submit.

    Raises:
        InputError: The recipe or an option is at fault, or sbatch refuses the job.
    """
    from foundation.errors import InputError
    from foundation.recipe import load_recipe, recipe_name

    problems = [
        f"--{name}: got {value}; allowed: {least} or more"
        for name, value, least in (("nodes", options.nodes, 1), ("gpus", options.gpus, 0), ("cpus", options.cpus, 1))
        if value < least
    ]
    if not _TIME.fullmatch(options.time):
        problems.append(
            f"--time: got '{options.time}'; allowed: minutes, hours:minutes:seconds, days-hours, "
            "days-hours:minutes:seconds"
        )
    if problems:
        raise InputError(problems)
    out = options.out or Path("runs") / recipe_name(options.recipe)
    overrides = [*options.overrides, f"trainer.accelerator={'gpu' if options.gpus else 'cpu'}"]
    load_recipe(options.recipe, overrides=overrides)
    command = _command(options, out=out, overrides=overrides)
    environment = {"FOUNDATION_ENV": sys.prefix}
    print(shlex.join([*(f"{name}={value}" for name, value in environment.items()), *command]), flush=True)
    if options.dry_run:
        return
    if shutil.which("sbatch") is None:
        raise InputError("sbatch: not found on this machine; allowed: a login node of a Slurm cluster, or --dry-run")
    done = subprocess.run(command, env=environment | os.environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(f"sbatch refused the job: {done.stderr.strip() or done.stdout.strip()}")
    print(done.stdout.strip())


def _command(options: argparse.Namespace, *, out: Path, overrides: list[str]) -> list[str]:
    from foundation.resources import slurm_dir

    tasks = max(options.gpus, 1)
    words = ["sbatch", f"--nodes={options.nodes}", f"--ntasks-per-node={tasks}", f"--cpus-per-task={options.cpus}"]
    if options.gpus:
        words.append(f"--gpus-per-node={options.gpus}")
    words.append(f"--time={options.time}")
    if options.partition is not None:
        words.append(f"--partition={options.partition}")
    script = str(slurm_dir() / "train.sbatch")
    return [*words, *options.sbatch, script, options.recipe, "--out", str(out), *overrides]
