"""Programs as processes of their own that start at once: forked from one process that has imported foundation."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ARGUMENTS: tuple[Path, tuple[str, ...], dict[str, str], Path, Path]
"""Of the program that a process is to be: file, words, variables, and where its output and errors go."""

_NAME = "one of the programs"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["foundation.run"])


class Program:
    """A program like `python FILE WORDS`.

    Args:
        file: What to run.
        *words: Its arguments.
        folder: Where what it says goes, as out.txt and err.txt.
        **environment: Variables besides those that the tests have.
    """

    def __init__(self, file: Path, *words: str, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        for path in (self._out, self._err):
            path.touch()  # a process that dies before it writes has said nothing
        variables = {**os.environ, **environment}
        arguments = (file, words, variables, self._out, self._err)
        # The other process does not find this module by its name: it runs this file.
        self.process: ForkServerProcess = _CONTEXT.Process(
            target=runpy.run_path, args=(__file__, {"ARGUMENTS": arguments}, _NAME)
        )
        self.process.start()

    def wait(self, *, seconds: float) -> int:
        """Give the exit code; a program that takes longer is killed."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def out(self) -> str:
        """What it printed so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """Its errors and log so far."""
        return self._err.read_text()


if __name__ == _NAME:
    program, arguments, variables, *paths = ARGUMENTS
    for path, stream in zip(paths, (sys.stdout, sys.stderr), strict=True):
        with path.open("w") as opened:
            os.dup2(opened.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")
