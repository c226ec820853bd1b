"""The data of a run: data sets prepared, split, mixed and served in batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np

from foundation.data.card import DatasetConfig, ResolvedDataset, resolve
from foundation.data.graphs import ConcatenatedGraphs, GraphSequence, MemoryBudget
from foundation.data.loader import GraphLoader
from foundation.data.mixture import Mixture, MixtureConfig
from foundation.data.prepare import prepare
from foundation.data.readers import read_isolated_atoms
from foundation.data.sampler import BatchConfig, Bounds, TrainingBatches, evaluation_batches
from foundation.data.splits import SPLITS, split_indices
from foundation.data.store import Store
from foundation.errors import InputError

Split = Literal["train", "val", "test"]

MEMORY_BYTES = 2 << 30
"""Graphs with edges that one process keeps, estimated; beyond it they are built anew from the store in every epoch."""

_SAME_ENERGY_EV = 1e-5

logger = logging.getLogger(__name__)


class GraphDataModule(lightning.LightningDataModule):
    """Serves the training mixture and the evaluation sets of a run.

    Training batches are a function of (seed, epoch, step, rank) and nothing else. Evaluation goes through all data sets
    in order, each structure once.

    Args:
        datasets: Name in the recipe -> what it is.
        cutoff: Of the neighbour lists, Å.
        batch: Bounds of a batch on one device.
        seed: Of the order of training structures.
        levels: Levels of theory in the model's order; if None, in order of first occurrence in the data sets.
        mixture: What one epoch is.
        num_workers: Processes that make batches ahead; 0 is best where all graphs fit in memory.
        cache_dir: Where prepared stores lie; FOUNDATION_CACHE or ~/.cache/foundation if None.
        memory_bytes: Graphs with edges to keep in memory, estimated.
    """

    def __init__(
        self,
        datasets: Mapping[str, DatasetConfig],
        *,
        cutoff: float,
        batch: BatchConfig,
        seed: int,
        levels: tuple[str, ...] | None = None,
        mixture: MixtureConfig | None = None,
        num_workers: int = 0,
        cache_dir: Path | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        super().__init__()
        if not datasets:
            raise InputError("data: no data sets; allowed: at least one")
        self._datasets = dict(datasets)
        self._cutoff = cutoff
        self._batch = batch
        self._seed = seed
        self._mixture_config = mixture or MixtureConfig()
        self._num_workers = num_workers
        self._cache_dir = cache_dir
        self._memory_bytes = memory_bytes
        self.dataset_names: tuple[str, ...] = tuple(datasets)
        self.resolved: dict[str, ResolvedDataset] = {
            name: resolve(config, name=name) for name, config in self._datasets.items()
        }
        self.levels: tuple[str, ...] = _levels(self.resolved, levels)
        self._stores: dict[str, Store] = {}
        self._graphs: dict[tuple[str, Split], GraphSequence] = {}
        self._training: TrainingBatches | None = None
        self._train_loader: GraphLoader | None = None
        self._train_position: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Make the stores that are not there yet; Lightning calls it in one process of each machine."""
        for dataset in self.resolved.values():
            prepare(dataset, cache_dir=self._cache_dir)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and split them; a second call does nothing.

        Args:
            stage: Ignored: every stage uses the same data.

        Raises:
            InputError: What `prepare` and `split_indices` find.
        """
        del stage
        if self._stores:
            return
        stores = {name: prepare(dataset, cache_dir=self._cache_dir) for name, dataset in self.resolved.items()}
        budget = MemoryBudget(self._memory_bytes)
        for place, (name, dataset) in enumerate(self.resolved.items()):
            store = stores[name]
            parts = split_indices(
                dataset.split,
                num=len(store),
                groups=store.groups,
                formulas=store.formulas,
                smiles=store.smiles,
                given=store.given_splits if store.splits_given or dataset.split.by == "given" else (),
                where=f"data '{name}'",
            )
            for split in SPLITS:
                if split not in parts:
                    continue
                self._graphs[name, split] = GraphSequence(
                    store,
                    parts[split],
                    cutoff=self._cutoff,
                    level_index=self.levels.index(dataset.level_of_theory),
                    dataset_index=place,
                    budget=budget,
                )
        self._stores = stores

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur in the data sets, ascending."""
        return tuple(sorted({number for store in self.stores.values() for number in store.elements}))

    @property
    def isolated_atoms(self) -> dict[str, dict[int, float]]:
        """Level of theory -> atomic number -> energy of the isolated atom, eV, where data sets state them.

        Raises:
            InputError: Two data sets of one level state different energies.
        """
        energies: dict[str, dict[int, float]] = {}
        for name, dataset in self.resolved.items():
            known = energies.setdefault(dataset.level_of_theory, {})
            for number, energy in read_isolated_atoms(dataset).items():
                if abs(known.setdefault(number, energy) - energy) > _SAME_ENERGY_EV:
                    raise InputError(
                        f"data '{name}': isolated atom of element {number} has {energy} eV, another data set of the "
                        f"same level of theory ('{dataset.level_of_theory}') has {known[number]} eV"
                    )
        return {level: known for level, known in energies.items() if known}

    @property
    def stores(self) -> Mapping[str, Store]:
        """Data set -> its store."""
        assert self._stores, "setup() was not called"
        return self._stores

    def splits(self, dataset: str) -> tuple[Split, ...]:
        """The splits that a data set has."""
        return tuple(split for split in SPLITS if (dataset, split) in self._graphs)

    def graphs(self, dataset: str, split: Split) -> GraphSequence:
        """Structures of one split of one data set, with edges.

        Raises:
            InputError: No such data set or split.
        """
        assert self._stores, "setup() was not called"
        if dataset not in self._datasets:
            raise InputError(f"no data set '{dataset}'; data sets: {', '.join(self._datasets)}")
        if (dataset, split) not in self._graphs:
            raise InputError(f"data '{dataset}' has no split '{split}'; it has: {', '.join(self.splits(dataset))}")
        return self._graphs[dataset, split]

    def training_batches(self, *, num_ranks: int) -> TrainingBatches:
        """The training batches of every epoch for so many processes; planned once.

        Raises:
            InputError: A structure above the bounds of a batch, fewer batches than ranks, contradictory shares.
        """
        if self._training is None or self._training.num_ranks != num_ranks:
            parts = self._training_parts()
            mixture = Mixture(
                {name: len(part) for name, part in parts.items()},
                weights={name: self._datasets[name].weight for name in parts},
                config=self._mixture_config,
                seed=self._seed,
            )
            graphs = ConcatenatedGraphs(list(parts.values()))
            self._training = TrainingBatches(mixture, bounds=self._bounds(graphs), num_ranks=num_ranks)
            logger.info("%s; %d steps", mixture.description, self._training.num_steps)
        return self._training

    def train_dataloader(self) -> GraphLoader:
        """This rank's training batches.

        Raises:
            InputError: What `training_batches` finds; a saved position that means nothing here.
        """
        parts = self._training_parts()
        rank, num_ranks = self._place()
        plan = self.training_batches(num_ranks=num_ranks)
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        loader = GraphLoader(
            ConcatenatedGraphs(list(parts.values())),
            plan=lambda epoch: plan.batches(epoch)[rank::num_ranks],
            num_workers=self._num_workers,
            identity={
                "data": _fingerprint(parts),
                "bounds": str(self._batch),
                "epoch": plan.description,
                "seed": self._seed,
                "num_ranks": num_ranks,
                "num_steps": plan.num_steps,
                "optimizer_steps": -(-plan.num_steps // accumulated),
            },
            digest=plan.digest,
            fullest=plan.fullest,
        )
        if self._train_position is not None:
            loader.load_state_dict(self._train_position)
            self._train_position = None
        self._train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Where training stands in its batches.

        Lightning keeps the loader's own state too, but does not give it back when something asks for the length of the
        run before the loops are restored, as every schedule does.
        """
        return {} if self._train_loader is None else {"train_loader": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader start where the saved one stood."""
        self._train_position = state_dict.get("train_loader")

    def val_dataloader(self) -> GraphLoader | list[Any]:
        """All validation structures in order, or nothing if no data set has any."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> GraphLoader | list[Any]:
        """All test structures in order, or nothing if no data set has any."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> GraphLoader | list[Any]:
        parts = {name: self._graphs[name, split] for name in self._datasets if (name, split) in self._graphs}
        if not parts:
            return []
        rank, num_ranks = self._place()
        graphs = ConcatenatedGraphs(list(parts.values()))
        order = np.arange(len(graphs))
        batches = evaluation_batches(order, bounds=self._bounds(graphs), num_ranks=num_ranks)[rank::num_ranks]
        return GraphLoader(
            graphs,
            plan=lambda _: batches,
            num_workers=self._num_workers,
            identity={"data": _fingerprint(parts), "num_steps": len(batches)},
        )

    def _training_parts(self) -> dict[str, GraphSequence]:
        parts = {name: self._graphs[name, "train"] for name in self._datasets if (name, "train") in self._graphs}
        if not parts:
            raise InputError(f"no data set has a training split; data sets: {', '.join(self._datasets)}")
        return parts

    def _bounds(self, graphs: ConcatenatedGraphs) -> Bounds:
        return Bounds(
            self._batch,
            num_atoms=graphs.num_atoms,
            num_neighbors=graphs.count_neighbors() if self._batch.counts_neighbors else None,
            name=graphs.name,
        )

    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of ranks."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _levels(resolved: Mapping[str, ResolvedDataset], levels: tuple[str, ...] | None) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(dataset.level_of_theory for dataset in resolved.values()))
    if levels is None:
        return found
    problems = [
        f"data '{name}': level of theory '{dataset.level_of_theory}' is unknown to the model; "
        f"it knows: {', '.join(levels)}"
        for name, dataset in resolved.items()
        if dataset.level_of_theory not in levels
    ]
    if problems:
        raise InputError(problems)
    return levels


def _fingerprint(parts: Mapping[str, GraphSequence]) -> str:
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(f"{name} {part.store.path.name}".encode())
        digest.update(part.rows.tobytes())
    return digest.hexdigest()[:12]
