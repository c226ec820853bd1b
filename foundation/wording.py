"""Words for people: numbers of things."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 thread`, `2 threads`.

    Args:
        number: How many.
        one: The noun for one of them.
        many: For several; the noun with an s if None.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
