"""The command line. It only parses and dispatches; each command is a file in `foundation/commands/`.

Exit codes: 0 done; 2 the input is at fault (one clear message, no traceback), a place that cannot be written included;
1 anything else, a full disk included (one clear message as well).
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from foundation.commands import cost, data, doctor, evaluate, export, hub, predict, report, schema, slurm, train
from foundation.errors import InputError, InterruptionError
from foundation.threads import tune_allocator

__all__ = ["main"]

COMMANDS = (train, evaluate, predict, data, hub, export, report, cost, slurm, doctor, schema)
DONE, FAILED, INPUT_AT_FAULT = 0, 1, 2
_INVALID_CHOICE = re.compile(r"invalid choice: '(?P<got>[^']*)' \(choose from (?P<allowed>.*)\)")
_WORD = re.compile(r"[\w-]+")
MAX_PROBLEMS = 40
"""That are printed; a file of a thousand structures at fault has a thousand."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BAD_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
"""What a path that the user named is refused with."""


class _Parser(argparse.ArgumentParser):
    """Names the nearest right word where one of a few was expected; commands and actions are parsed by its like."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and end, as argparse does."""
        from foundation.config_problems import nearest  # here: it costs a tenth of a second

        wrong = _INVALID_CHOICE.search(message)
        close = None if wrong is None else nearest(wrong["got"], _WORD.findall(wrong["allowed"]))
        super().error(message if close is None else f"{message}; nearest: '{close}'")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; cheap, since commands import what they need only when they run."""
    parser = _Parser(
        prog="foundation",
        description="One model of molecules and materials: pretrained once, fine-tuned by recipe, used everywhere.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"foundation {version('foundation')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = options.run in (train.run, slurm.run_submit)
    if rest and takes_overrides and not any(word.startswith("-") for word in rest):
        options.overrides += rest  # KEY=VALUE behind an option, which argparse does not put together
    elif rest:
        hint = _hint(parser, arguments, rest, takes_overrides=takes_overrides)
        parser.error(f"unrecognised: {' '.join(rest)}{hint}")
    return options


def _hint(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, rest: Sequence[str], *, takes_overrides: bool
) -> str:
    """The known options that are nearest to the unknown ones; else, where a command takes overrides, their form."""
    from foundation.config_problems import nearest  # here: it costs a tenth of a second

    known = _options(parser, sys.argv[1:] if arguments is None else arguments)
    names = {option.lstrip("-"): option for option in known}  # every option begins alike
    unknown = [word.partition("=")[0].lstrip("-") for word in rest if word.startswith("-")]
    close = [f"'{names[found]}'" for found in (nearest(word, names) for word in unknown) if found is not None]
    if close:
        return f"; nearest: {', '.join(close)}"
    return "; overrides are KEY=VALUE, as in optimizer.learning_rate=0.001" if takes_overrides else ""


def _options(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Options of the command, or the action of a command, that the words name."""
    for action in parser._actions:  # argparse has no public way to ask a parser for its subparsers
        if isinstance(action, argparse._SubParsersAction):
            for number, word in enumerate(words):
                if word in action.choices:
                    return _options(action.choices[word], words[number + 1 :])
    return [option for action in parser._actions for option in action.option_strings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As on the command line, without the program's name; None takes the process's own.

    Returns:
        The exit code.
    """
    try:
        options = _parse(arguments)
    except SystemExit as stop:  # argparse has printed what is wrong, or the help
        return stop.code if isinstance(stop.code, int) else INPUT_AT_FAULT
    tune_allocator()
    try:
        options.run(options)
    except InputError as error:
        print("\n".join(_listed(error.problems)), file=sys.stderr)
        return FAILED if _is_disk_full(error.__cause__) else INPUT_AT_FAULT
    except BrokenPipeError:  # the reader of our output has gone, as in `foundation data list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except InterruptionError as stop:
        print(f"{stop}{'; --resume goes on' if stop.goes_on else ''}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return FAILED
    except OSError as error:
        if _is_disk_full(error):
            where = error.filename or "output"
            print(f"error: {where}: the disk is full; free some space or write elsewhere", file=sys.stderr)
            return FAILED
        if error.errno in _BAD_PLACE and error.filename is not None:
            advice = "name another place, or make this one readable and writable"
            print(f"error: {error.filename}: {error.strerror}; {advice}", file=sys.stderr)
            return INPUT_AT_FAULT
        traceback.print_exc()
        return FAILED
    except Exception:
        traceback.print_exc()
        return FAILED
    return DONE


def _listed(problems: Sequence[str]) -> list[str]:
    """One line a problem; of very many the first."""
    lines = [f"error: {problem}" for problem in problems[:MAX_PROBLEMS]]
    rest = len(problems) - len(lines)
    return [*lines, f"error: … and {rest} more problems"] if rest else lines


def _is_disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK_FULL


if __name__ == "__main__":
    sys.exit(main())
