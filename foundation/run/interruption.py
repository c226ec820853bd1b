"""Signals that ask a run to stop: noted at once, obeyed between two steps, by all ranks after the same one.

Ours and not Lightning's, whose handlers save amid a step and start a collective operation in the middle of another.
A signal that comes before or after training ends the run at once: there is nothing to save then.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

from foundation.errors import InterruptionError
from foundation.run.ranks import has_lost_another, is_first_process

__all__ = ["REQUEUE_FILE", "SIGNALS", "Agreement", "Interruption", "note_for_requeue"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send: before the time limit, and when a job is preempted or cancelled."""
REQUEUE_FILE = "FOUNDATION_REQUEUE_FILE"
"""Environment variable: where to note which signal interrupted the run, which wants to go on (slurm/train.sbatch)."""


class Interruption:
    """Handles the signals while it is entered.

    Attributes:
        received: Name of the first signal that came; None if none did.
        has_begun: Whether there is a run directory to go on from.
        is_training: While true a signal is only noted, for training to stop after a step; else it ends the run at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.has_begun = False
        self.is_training = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        """Begin to listen; a thread that is not the main one cannot."""
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back. Before, note what interrupted: a rank that has ended gets the others a SIGTERM.

        Raises:
            InterruptionError: A signal had come and another rank does not answer: it stopped first, as it was told to.
        """
        stop = value
        if self.received is not None and value is not None and has_lost_another(value):
            stop = InterruptionError(self.received, where="when another rank had stopped already")
        if isinstance(stop, InterruptionError) and is_first_process():
            note_for_requeue(stop.name)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        if stop is not None and stop is not value:
            raise stop from value

    def listen_again(self) -> None:
        """Take the signals back from Lightning, which has put its own handlers before ours."""
        for number in self._former:
            signal.signal(number, self._note)

    @property
    def flags(self) -> tuple[bool, ...]:
        """For each of `SIGNALS`, whether it is the one that this rank received."""
        return tuple(self.received == number.name for number in SIGNALS)

    def obey(self, *, where: str) -> None:
        """Stop if a signal has come.

        Args:
            where: What can be gone on from, for people.

        Raises:
            InterruptionError: One has.
        """
        if self.received is not None:
            raise InterruptionError(self.received, where=where)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is None:
            self.received = signal.Signals(number).name
            if not self.is_training:
                raise InterruptionError(self.received, where="outside of training", goes_on=self.has_begun)


class Agreement:
    """Lets all ranks know what any of them knows, without waiting for one another.

    What is asked in one step is answered in the next: the exchange runs on the CPU beside the step.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def start(self, *, world_size: int) -> None:
        """Make the connection; every rank has to.

        Args:
            world_size: Number of ranks; one alone agrees with itself at once.
        """
        if world_size > 1:
            self._group = distributed.new_group(backend="gloo")

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """For every flag, whether it was set on any rank: as asked in the call before, with several ranks."""
        if self._group is None:
            return flags
        answer = self.rest()
        asked = torch.tensor(flags, dtype=torch.int32)
        work = distributed.all_reduce(asked, op=distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, asked
        return answer or (False,) * len(flags)

    def now(self, *flags: bool) -> tuple[bool, ...]:
        """For every flag, whether it is set on any rank at this moment; every rank waits for all others here."""
        self.rest()
        answer = self.any_rank(*flags)
        return answer if self._group is None else self.rest()

    def rest(self) -> tuple[bool, ...]:
        """What is still to be answered; empty if nothing is."""
        if self._pending is None:
            return ()
        work, answer = self._pending
        self._pending = None
        work.wait()
        return tuple(bool(value) for value in answer.tolist())


def note_for_requeue(name: str) -> None:
    """Tell the batch script, if there is one, that the run wants to go on.

    Args:
        name: Of the signal. SIGTERM also comes to the tasks that are left when another one has failed, where going on
            would fail again: the script has to look what it came for.
    """
    path = os.environ.get(REQUEUE_FILE)
    if path:
        Path(path).write_text(name + "\n", encoding="utf-8")
