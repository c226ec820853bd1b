"""The one exception for faults in what the user gave; and the one for a program that was asked to stop."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["InputError", "InterruptionError"]


class InputError(ValueError):
    """The input is at fault: a recipe, a card, a data file or an argument.

    The command line prints it as one message without a traceback and exits with code 2. Each problem says what is
    wrong, where, what was got and what is allowed.

    Args:
        problems: One problem, or all that were found at once; printed one to a line in the order given.

    Attributes:
        problems: The problems, at least one, each without surrounding white space.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        found = (problems,) if isinstance(problems, str) else tuple(problems)
        self.problems: tuple[str, ...] = tuple(problem.strip() for problem in found)
        assert self.problems, "an InputError needs at least one problem"
        assert all(self.problems), "an InputError's problems may not be empty"
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[str, ...]]]:
        """Rebuild from the list of problems, so that the error crosses process boundaries whole."""
        return type(self), (self.problems,)


class InterruptionError(Exception):
    """A signal asked the program to stop, and it has: with what it needs to go on, if there is anything to go on from.

    Args:
        name: Of the signal.
        where: What it stopped after, for people.
        goes_on: Whether something was written that can be gone on from.

    Attributes:
        name: Of the signal.
        goes_on: As given.
    """

    def __init__(self, name: str, *, where: str, goes_on: bool = True) -> None:
        self.name = name
        self.goes_on = goes_on
        super().__init__(f"interrupted by {name} {where}")
