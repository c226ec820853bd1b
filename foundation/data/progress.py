"""How far reading a large source has come: a bar on a terminal, else a line every so often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["shown_progress"]

LINE_SECONDS = 15.0
"""Where the output is no terminal, a line is written this often; a source that is read faster writes none."""


@contextmanager
def shown_progress(what: str, *, total: int | None, console: Console) -> Iterator[Callable[[], None]]:
    """Show how many structures have been read, until the block ends.

    Args:
        what: What is done, such as `reading rmd17/aspirin`.
        total: Structures that are expected; None if that is not known.
        console: Where it is shown.

    Yields:
        To be called after each structure.
    """
    if not console.is_terminal:
        yield _lines(what, total=total, console=console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _lines(what: str, *, total: int | None, console: Console) -> Callable[[], None]:
    started = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            count = f"{done} structures" if total is None else f"{done} of {total} structures"
            console.print(f"{what}: {count}, {now - started:.0f} s", highlight=False, soft_wrap=True)

    return advance
