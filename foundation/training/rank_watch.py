"""A timeout that names the rank for which all others wait, and what it was doing."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed import DistError, TCPStore

__all__ = ["TIMEOUT_SECONDS", "TIMEOUT_VARIABLE", "RankWatch", "timeout_seconds"]

TIMEOUT_VARIABLE = "FOUNDATION_RANK_TIMEOUT"
"""Environment variable: seconds; longer than any single batch, validation batch or checkpoint takes."""
TIMEOUT_SECONDS = 600.0
_LONGEST_PERIOD = 5.0
_FAILED = 1


def timeout_seconds() -> float:
    """How long all ranks may stand still: as the environment says, else `TIMEOUT_SECONDS`."""
    return float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT_SECONDS))


class RankWatch(Callback):
    """Ends every rank when none has got any further for some time.

    A rank that hangs leaves the others in a collective operation, from which nothing wakes them but its timeout (half
    an hour by torch's default), which does not know for whom it waits. So a thread of each rank writes to a store what
    its rank is doing, reads what the others are, and ends the process when all stand still. Nothing is added to a step:
    the training thread only notes a number and a few words.

    Args:
        seconds: No rank has begun anything new for so long; counted from the first step on, as compiling comes before.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._period = min(_LONGEST_PERIOD, seconds / 8)
        self._doing: tuple[int, str] = (0, "setting up")
        self._stop = threading.Event()
        self._rank = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Meet in a store of our own and begin to watch."""
        if trainer.world_size == 1 or not isinstance(trainer.strategy, DDPStrategy):
            return
        environment = trainer.strategy.cluster_environment
        assert environment is not None
        self._rank, address = trainer.global_rank, environment.main_address
        waits = timedelta(seconds=max(self._seconds, 1.0))
        store = None
        if trainer.is_global_zero:
            store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=waits)
        port = trainer.strategy.broadcast(None if store is None else store.port)
        if store is None:
            assert port is not None
            store = TCPStore(address, port, is_master=False, timeout=waits)
        self._stop.clear()
        self._doing = (0, "setting up")
        self._say(store, beat=0)
        trainer.strategy.barrier("RankWatch")  # every rank has said something that others can read
        arguments = {"store": store, "world_size": trainer.world_size}
        threading.Thread(target=self._watch, kwargs=arguments, name="rank-watch", daemon=True).start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Its batch has come."""
        self._note(f"in step {trainer.global_step + 1}: model and labels")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:  # noqa: ARG002
        """Ranks have agreed on how many labels there are."""
        self._note(f"in step {trainer.global_step + 1}: gradients")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *given: Any) -> None:  # noqa: ARG002
        """What follows is the next batch, unless something else is noted."""
        self._note(f"after step {trainer.global_step}: loading the next batch")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *given: Any) -> None:  # noqa: ARG002
        """A validation goes on."""
        self._note(f"after step {trainer.global_step}: validation batch {given[1]}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """The disk is waited for."""
        self._note(f"after step {trainer.global_step}: checkpoint")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Nobody waits any longer."""
        self._stop.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """This rank ends on its own."""
        self._stop.set()

    def _note(self, what: str) -> None:
        self._doing = (self._doing[0] + 1, what)

    def _say(self, store: TCPStore, *, beat: int) -> None:
        count, what = self._doing
        said = {"count": count, "what": what, "beat": beat, "where": f"{platform.node()}, process {os.getpid()}"}
        store.set(str(self._rank), json.dumps(said))

    def _watch(self, *, store: TCPStore, world_size: int) -> None:
        names = [str(rank) for rank in range(world_size)]
        known: list[dict[str, Any]] = []
        moved = heard = time.monotonic()
        signs = [moved] * world_size
        beat = 0
        while not self._stop.wait(self._period):
            beat += 1
            now = time.monotonic()
            try:
                self._say(store, beat=beat)
                said = [json.loads(one) for one in store.multi_get(names)]
            except (DistError, RuntimeError):
                # The first rank's store: it ended, and this rank will be told so, or its machine does not answer.
                if now - heard > self._seconds and not self._stop.is_set():
                    self._end(f"rank 0 has not answered for {now - heard:.0f} s; this rank is {self._doing[1]}")
                continue
            heard = now
            counts = [one["count"] for one in said]
            if not known or counts != [one["count"] for one in known]:
                moved = now
            signs = [
                now if not known or one["beat"] != before["beat"] else last
                for one, before, last in zip(said, known or said, signs, strict=True)
            ]
            known = said
            if now - moved > self._seconds and max(counts) > 0 and not self._stop.is_set():
                silent = [now - sign > self._seconds / 2 for sign in signs]
                self._end(stalled(said, silent=silent, rank=self._rank, seconds=now - moved))

    def _end(self, problem: str) -> None:
        # The training thread is in a collective operation, where no exception reaches it.
        sys.stderr.write(f"error: {problem} ({TIMEOUT_VARIABLE} sets the time)\n")
        sys.stderr.flush()
        time.sleep(2 * self._period)  # the others still have to see for themselves: this ends their connections
        os._exit(_FAILED)


def stalled(said: list[dict[str, Any]], *, silent: list[bool], rank: int, seconds: float) -> str:
    """Who is waited for, where it is and what it does, and what this rank does meanwhile.

    Args:
        said: By each rank.
        silent: Ranks whose process gives no sign of life; if there are none, those that are furthest behind are named.
        rank: Which one asks.
        seconds: How long nothing has moved.
    """
    least = min(one["count"] for one in said)
    late = [
        number for number in range(len(said)) if (silent[number] if any(silent) else said[number]["count"] == least)
    ]
    if len(late) == len(said):
        return f"no rank has got any further for {seconds:.0f} s: all are {said[rank]['what']}"
    named = "; ".join(
        f"rank {number} ({said[number]['where']}) {'was' if silent[number] else 'is'} {said[number]['what']}"
        + (" and gives no sign of life" if silent[number] else "")
        for number in late
    )
    own = f"this is rank {rank}" if rank in late else f"rank {rank} waits {said[rank]['what']}"
    return f"no rank has got any further for {seconds:.0f} s: {named}; {own}"
