"""Batches of graphs for training and evaluation: an iterable that knows where it stands and can start anywhere."""

from __future__ import annotations

import atexit
import mmap
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from foundation.data.graph import AtomGraph, collate
from foundation.data.graphs import ConcatenatedGraphs
from foundation.data.sampler import Batch
from foundation.errors import InputError


class EpochCounter:
    """The epoch that a loader serves; Lightning sets it."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Serve this epoch from now on."""
        self.epoch = epoch


class GraphLoader:
    """Iterates over the batches of one rank.

    It is no `torch.utils.data.DataLoader`, so that nobody exchanges its sampler; with worker processes it uses one
    inside, and gives the same batches in the same order. A saved state names the epoch and the next step.

    Args:
        graphs: All graphs, numbered as in the batches.
        plan: Epoch -> this rank's batches; as many in every epoch.
        num_workers: Processes that make batches ahead; 0 makes them here.
        identity: What must be equal for a saved position to mean the same batches.
        digest: Epoch -> what all ranks together see in its steps. Where that is equal, a saved position means the same
            structures on another number of ranks; None if there is no such thing.
        fullest: Epoch -> batches that take as much memory as any.

    Attributes:
        sampler: Holds the epoch, under the name by which Lightning finds it.
    """

    def __init__(
        self,
        graphs: ConcatenatedGraphs,
        *,
        plan: Callable[[int], Sequence[Batch]],
        num_workers: int,
        identity: Mapping[str, int | str],
        digest: Callable[[int], str] | None = None,
        fullest: Callable[[int], Sequence[Batch]] | None = None,
    ) -> None:
        self._graphs = graphs
        self._fullest = fullest
        self._plan = plan
        self._num_workers = num_workers
        self._identity = dict(identity)
        self._digest = digest
        self._num_steps = len(plan(0))
        self._position = (0, 0)
        self.sampler = EpochCounter()
        self.batch_sampler = None  # Lightning asks for it where there is a sampler

    def __len__(self) -> int:
        return self._num_steps

    def __iter__(self) -> Iterator[AtomGraph]:
        """Serve the rest of the current epoch; the epoch is read when the first batch is asked for."""
        epoch = self.sampler.epoch
        reached, step = self._position
        start = step if reached == epoch and step < self._num_steps else 0
        batches = self._plan(epoch)
        assert len(batches) == self._num_steps, f"epoch {epoch} has {len(batches)} batches, not {self._num_steps}"
        self._position = (epoch, start)
        for step, batch in enumerate(self._make(batches[start:]), start=start + 1):
            self._position = (epoch, step)
            yield batch

    def one_of_each_mixture(self) -> Iterator[AtomGraph]:
        """The coming epoch's first batch of every combination of data sets; the position stays."""
        seen = set()
        for batch in self._plan(self.sampler.epoch):
            parts = self._graphs.parts_of(batch)
            if parts not in seen:
                seen.add(parts)
                yield collate([self._graphs[structure] for structure in batch.tolist()])

    def fullest(self) -> Iterator[AtomGraph]:
        """Batches that take as much memory as any of training; the position stays."""
        for batch in [] if self._fullest is None else self._fullest(self.sampler.epoch):
            yield collate([self._graphs[structure] for structure in batch.tolist()])

    def _make(self, batches: Sequence[Batch]) -> Iterator[AtomGraph]:
        dataset = _BatchDataset(self._graphs, batches)
        if self._num_workers == 0:
            return (dataset[number] for number in range(len(dataset)))
        self._graphs.build_if_all_fit()
        return self._make_ahead(dataset)

    def _make_ahead(self, dataset: _BatchDataset) -> Iterator[AtomGraph]:
        is_over = mmap.mmap(-1, 1)  # the workers see what is written here
        end = partial(is_over.__setitem__, 0, 1)
        loader = DataLoader(
            dataset,
            batch_size=None,
            shuffle=False,
            num_workers=self._num_workers,
            multiprocessing_context="fork",
            worker_init_fn=partial(_start_worker, parent=os.getpid(), is_over=is_over),
        )
        batches = iter(loader)
        atexit.register(end)  # before torch ends workers that are left
        try:
            yield from batches
        finally:
            end()
            atexit.unregister(end)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: epoch, batches served of it, and what these depend on."""
        epoch, step = self._position
        state = {"epoch": epoch, "step": step, "identity": dict(self._identity)}
        return state if self._digest is None else {**state, "digest": self._digest(epoch)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a loader with this state stopped.

        Raises:
            InputError: The state is amid an epoch of other batches, or an epoch has another number of optimizer steps.
        """
        epoch, step, saved = int(state["epoch"]), int(state["step"]), dict(state["identity"])
        amid = 0 < step < int(saved["num_steps"])
        if amid and saved != self._identity and not self._means_the_same(state):
            raise InputError(
                f"cannot continue at step {step} of epoch {epoch}: the batches are not the same any more "
                f"({self._changes(saved)}); resume with the same data, bounds, seed and number of processes, or from a "
                "checkpoint of a whole epoch"
            )
        before, now = saved.get("optimizer_steps"), self._identity.get("optimizer_steps")
        if before is not None and before != now and saved.get("num_ranks") != self._identity.get("num_ranks"):
            raise InputError(
                f"cannot continue on {self._identity.get('num_ranks')} processes: an epoch had {before} optimizer "
                f"steps on {saved.get('num_ranks')} and would have {now}, so that the learning rate would jump; "
                "allowed: the former number of processes, or a run with batch.global_structures"
            )
        if step >= int(saved["num_steps"]):
            epoch, step = epoch + 1, 0
        self._position = (epoch, step)
        self.sampler.set_epoch(epoch)

    def _means_the_same(self, state: Mapping[str, Any]) -> bool:
        """Whether ranks of another number see in every step what those of the state saw."""
        changed = {key for key in self._identity if state["identity"].get(key) != self._identity[key]}
        if self._digest is None or not changed <= {"bounds", "num_ranks"}:
            return False
        return state.get("digest") == self._digest(int(state["epoch"]))

    def _changes(self, saved: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{key} was {saved.get(key)} and is {self._identity.get(key)}"
            for key in sorted(saved.keys() | self._identity.keys())
            if saved.get(key) != self._identity.get(key)
        )


class _BatchDataset(Dataset[AtomGraph]):
    """Batch number -> batch."""

    def __init__(self, graphs: ConcatenatedGraphs, batches: Sequence[Batch]) -> None:
        self.graphs = graphs
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> AtomGraph:
        return collate([self.graphs[structure] for structure in self._batches[number].tolist()])


def _start_worker(number: int, *, parent: int, is_over: mmap.mmap) -> None:  # noqa: ARG001
    """A worker ends with its epoch, so that what it kept in memory would be lost; and it ends with nothing else.

    A batch system that asks a run to stop sends its signal to every process of it. The main process still needs its
    batches then: it ends the step, saves and stops.
    """
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, _BatchDataset)
    info.dataset.graphs.keep_no_more()

    def end_if_told(*_: object) -> None:
        if is_over[0] or os.getppid() != parent:
            os._exit(0)

    signal.signal(signal.SIGTERM, end_if_told)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
