"""What it means for a training that another process of it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer

from foundation.run.ranks import has_lost_another

__all__ = ["explained_losses"]


@contextmanager
def explained_losses(trainer: Trainer) -> Iterator[None]:
    """Within this context, an error from the loss of another process gets a note that says so, and what to do.

    Around the whole of `trainer.fit`, not in a callback of it: torch raises the news of a process that loads data in a
    signal handler, wherever the program is just then, also where it is ending from the news of the one before.
    """
    try:
        yield
    except Exception as error:
        if trainer.world_size > 1 and has_lost_another(error):
            error.add_note(
                f"rank {trainer.global_rank} of {trainer.world_size} lost another one after step "
                f"{trainer.global_step}; why that one ended is further up in the log, or known to the batch "
                "system; --resume goes on from the last checkpoint"
            )
        if any("DataLoader worker" in str(one) for one in _with_causes(error)):
            error.add_note(
                f"one of the processes that load data (num_workers) was ended from outside after step "
                f"{trainer.global_step}, as where memory is exhausted; --resume goes on from the last checkpoint"
            )
        raise


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those it came from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
