"""Batches of graphs for training and evaluation: an iterable that knows where it stands and can start anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    ) -> None:
        self._graphs = graphs
        self._plan = plan
        self._num_workers = num_workers
        self._identity = dict(identity)
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

    def _make(self, batches: Sequence[Batch]) -> Iterator[AtomGraph]:
        dataset = _BatchDataset(self._graphs, batches)
        if self._num_workers == 0:
            return (dataset[number] for number in range(len(dataset)))
        self._graphs.build_if_all_fit()
        loader = DataLoader(
            dataset,
            batch_size=None,
            shuffle=False,
            num_workers=self._num_workers,
            multiprocessing_context="fork",
            worker_init_fn=_start_worker,
        )
        return iter(loader)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: epoch, batches served of it, and what these depend on."""
        epoch, step = self._position
        return {"epoch": epoch, "step": step, "identity": dict(self._identity)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a loader with this state stopped.

        Raises:
            InputError: The state is amid an epoch of other batches.
        """
        epoch, step, saved = int(state["epoch"]), int(state["step"]), dict(state["identity"])
        amid = 0 < step < int(saved["num_steps"])
        if amid and saved != self._identity:
            changed = ", ".join(
                f"{key} was {saved.get(key)} and is {self._identity.get(key)}"
                for key in sorted(saved.keys() | self._identity.keys())
                if saved.get(key) != self._identity.get(key)
            )
            raise InputError(
                f"cannot continue at step {step} of epoch {epoch}: the batches are not the same any more ({changed}); "
                "resume with the same data, bounds, seed and number of processes, or from a checkpoint of a whole epoch"
            )
        if step >= int(saved["num_steps"]):
            epoch, step = epoch + 1, 0
        self._position = (epoch, step)
        self.sampler.set_epoch(epoch)


class _BatchDataset(Dataset[AtomGraph]):
    """Batch number -> batch."""

    def __init__(self, graphs: ConcatenatedGraphs, batches: Sequence[Batch]) -> None:
        self.graphs = graphs
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> AtomGraph:
        return collate([self.graphs[structure] for structure in self._batches[number].tolist()])


def _start_worker(number: int) -> None:  # noqa: ARG001
    """A worker ends with its epoch: what it kept in memory would be lost."""
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, _BatchDataset)
    info.dataset.graphs.keep_no_more()
