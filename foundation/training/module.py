"""`FoundationModule`: one training step for any mix of objectives."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from foundation.compilation import CompileConfig, CompiledModel
from foundation.data.graph import AtomGraph
from foundation.data.loader import GraphLoader
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES
from foundation.training.ema import EmaConfig, WeightAverage
from foundation.training.finiteness import not_finite
from foundation.training.metrics import LossSums, PropertyMetric, build_metric, named_scores, overall_scores
from foundation.training.objectives.base import Objective
from foundation.training.optim import OptimizerConfig, build_optimizer
from foundation.training.rank_watch import RankWatch, timeout_seconds
from foundation.training.schedule import ScheduleConfig, build_schedule

CHECKPOINT_KEY = "foundation_training"
REHEARSING = ("cuda",)
"""Kinds of devices whose memory is tried with the fullest batches before the first step."""
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
"""Of `trainer.precision`. Half precision's range ends at 65,504, and what keeps it from gradients of zero scales the
loss, but not the forces within; weights in bf16 lose small updates."""

_SENDS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second is its name before torch 2.13
    if name in inspect.signature(DistributedDataParallel).parameters
)


class FoundationModule(LightningModule):
    """Trains a model on the weighted sum of its objectives' means.

    A mean is over the labelled entries of all ranks' batches, so that the gradient does not depend on how one global
    batch is spread over ranks. With gradient accumulation, the means of the accumulated batches are averaged.

    All randomness of a step is a function of (seed, rank, number of batches seen): a resumed run draws what an
    uninterrupted one would have drawn.

    Attributes:
        model: The raw weights; averaged ones are in `average`.
        compiled: What training steps call instead of `model`; None where they are eager.
        average: Moving average of the weights, or None.
        batches_seen: Training batches that this rank has seen since step 0, across resumes.
        window: Sums and counts of every objective on this rank since the last log, `[2, objectives]`.
        latest_scores: Property -> mean absolute error and unit (or accuracy) in training, when last logged.
    """

    weights: Tensor

    def __init__(
        self,
        model: FoundationModel,
        objectives: Sequence[Objective],
        *,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        ema: EmaConfig | None,
        dataset_names: Sequence[str],
        seed: int,
        compilation: CompileConfig | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        """Put together what trains.

        Args:
            model: With its scaling set.
            objectives: At least one.
            optimizer: Which, and its rates.
            schedule: By optimizer steps; the length of the run is asked from the trainer.
            ema: None trains without a moving average.
            dataset_names: In order of `dataset_index`; metrics are named by them.
            seed: Of the objectives' noise.
            compilation: Whether training steps are compiled; None for not.
            activation_checkpointing: Whether training steps compute layers anew in the backward pass to save memory.
        """
        super().__init__()
        assert objectives, "nothing to train"
        self.model = model
        model.backbone.recomputes = activation_checkpointing
        self.compiled: CompiledModel | None = None
        if compilation is not None and compilation.enabled:
            self.compiled = CompiledModel(model, fallback=compilation.fallback, cuda_graphs=compilation.cuda_graphs)
        self.objectives = nn.ModuleList(objectives)
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.average = None if ema is None else WeightAverage(model, ema)
        self.dataset_names = tuple(dataset_names)
        self.seed = seed
        self.batches_seen = 0
        self.latest_scores: dict[str, tuple[float, str]] = {}
        self.register_buffer(
            "weights", torch.tensor([o.weight for o in objectives], dtype=torch.float64), persistent=False
        )
        # No buffer: DDP would overwrite it with the first rank's.
        self.window = torch.zeros(2, len(objectives), dtype=torch.float64)
        self.train_metrics = self._build_metrics()
        self.val_metrics = self._build_metrics()
        self.val_losses = LossSums(len(objectives))
        self._views: dict[str, list[int]] = defaultdict(list)
        for index, objective in enumerate(objectives):
            self._views[objective.view].append(index)

    # ---------------------------------------------------------------------------------------------------------- setup

    def setup(self, stage: str) -> None:
        """Refuse trainer settings under which training would hang or differentiate nothing.

        Raises:
            InputError: Several ranks without `find_unused_parameters`, validation in inference mode, or a precision in
                which weights or forces are lost.
        """
        if self.trainer.precision not in PRECISIONS:
            raise InputError(f"trainer.precision: got '{self.trainer.precision}'; allowed: {', '.join(PRECISIONS)}")
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):
            if not strategy._ddp_kwargs.get("find_unused_parameters"):
                raise InputError(
                    "trainer.strategy: got plain 'ddp', which hangs when a batch does not use every head; "
                    "allowed: ddp_find_unused_parameters_true"
                )
            # No buffer changes in training, so that sending them before every step would only take time.
            strategy._ddp_kwargs.setdefault(_SENDS_BUFFERS, False)
        if stage == "validate" and self.trainer.validate_loop.inference_mode:
            raise InputError("trainer.inference_mode: got true; allowed: false (validation differentiates for forces)")

    def configure_callbacks(self) -> list[Callback]:
        """The moving average, which has to follow every step, and what ends ranks that wait for one in vain."""
        watch = RankWatch(timeout_seconds())
        return [watch] if self.average is None else [self.average, watch]

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer and schedule; one step of the schedule an optimizer step."""
        optimizer = build_optimizer(self.model, self.optimizer_config)
        total_steps = self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, self.schedule_config, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _build_metrics(self) -> nn.ModuleDict:
        names = dict.fromkeys(objective.predicts for objective in self._objectives())
        return nn.ModuleDict(
            {
                name: build_metric(PROPERTIES[name], num_datasets=len(self.dataset_names), communicate=True)
                for name in names
            }
        )

    def _objectives(self) -> list[Objective]:
        return list(self.objectives)  # type: ignore[arg-type]

    def on_fit_start(self) -> None:
        """What is no buffer does not follow the module to its device."""
        self.window = self.window.to(self.device)

    def on_train_start(self) -> None:
        """Before the first step: compile and check what the coming epoch asks for, and see that memory lasts.

        Raises:
            InputError: The compiled path is not the eager one, or there is none (unless `fallback: eager`); or the
                fullest batch does not fit into the device's memory.
        """
        if self.compiled is not None:
            self._compile(self.compiled)
        if self.device.type in REHEARSING:
            self._rehearse()

    def _compile(self, compiled: CompiledModel) -> None:
        if self.trainer.accumulate_grad_batches > 1:
            compiled.cuda_graphs = False  # the gradients of one batch would be overwritten by the next one's
        loader = self.trainer.train_dataloader
        assert isinstance(loader, GraphLoader)
        period = math.lcm(*(objective.every for objective in self._objectives()))
        turns = {tuple(step % objective.every == 0 for objective in self._objectives()): step for step in range(period)}
        for loaded in loader.one_of_each_mixture():
            batch = self.trainer.strategy.batch_to_device(loaded)
            for step in turns.values():
                for view, _, asked in self._prepared(batch, step=step, training=True):
                    with self.trainer.precision_plugin.train_step_context():
                        compiled.check(view, properties=asked, create_graph=True)

    def _rehearse(self) -> None:
        """Take the fullest batches through a step that changes nothing: memory runs out now, or never."""
        loader = self.trainer.train_dataloader
        assert isinstance(loader, GraphLoader)
        for loaded in loader.fullest():
            batch = self.trainer.strategy.batch_to_device(loaded)
            metrics = self._build_metrics().to(self.device)
            devices = [self.device] if self.device.type == "cuda" else []  # by default those of other ranks too
            try:
                with torch.random.fork_rng(devices=devices):
                    with self.trainer.precision_plugin.train_step_context():
                        sums = self._compare(batch, step=0, training=True, metrics=metrics)
                    loss = (self.weights * sums[0]).sum()
                    if loss.requires_grad:
                        self.backward(loss)
            except torch.OutOfMemoryError as error:
                atoms, edges = len(batch.positions), len(batch.senders)
                raise InputError(
                    f"batch: one of {batch.num_graphs} structures with {atoms} atoms, {edges} edges and "
                    f"{atoms * batch.max_neighbors} slots, which its bounds allow, does not fit into the memory of "
                    f"{self.device}; allowed: smaller batch.max_structures, max_atoms, max_edges or max_slots, or "
                    "activation_checkpointing: true"
                ) from error
            self.zero_grad(set_to_none=True)

    # ----------------------------------------------------------------------------------------------------------- step

    def training_step(self, batch: AtomGraph, batch_idx: int) -> Float[Tensor, ""]:  # noqa: ARG002
        """The total loss of one batch, scaled so that averaging gradients over ranks gives the global mean."""
        step = self.batches_seen
        self.batches_seen += 1
        torch.manual_seed(derived_seed(self.seed, self.global_rank, step, "step"))
        sums = self._compare(batch, step=step, training=True, metrics=self.train_metrics)
        counts = sums[1].detach().clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        loss = self.trainer.world_size * (self.weights * sums[0] / counts.clamp(min=1)).sum()
        self.window += sums.detach()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue] (a connector sets it)
            self._log_window(batch)
        if not loss.requires_grad:
            # No label on this rank: the backward pass must still run, or the other ranks wait for it.
            loss = loss + 0.0 * next(p for p in self.model.parameters() if p.requires_grad).sum()
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of weights only; that of positions, which forces make a leaf too, would cost a fifth of a step."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        torch.autograd.backward(loss, *args, inputs=weights, **kwargs)

    def validation_step(self, batch: AtomGraph, batch_idx: int) -> None:
        """Accumulate losses and metrics; noise is the same in every validation."""
        sums = self._compare(batch, step=batch_idx, training=False, metrics=self.val_metrics)
        self.val_losses.update(sums)

    def _compare(
        self, batch: AtomGraph, *, step: int, training: bool, metrics: nn.ModuleDict
    ) -> Float[Tensor, "2 objectives"]:
        """One forward pass a view; sums and counts of every objective on this rank."""
        objectives = self._objectives()
        zero = torch.zeros((), dtype=torch.float64, device=batch.positions.device)
        totals, counts = [zero] * len(objectives), [zero] * len(objectives)
        forward = self.compiled if training and self.compiled is not None else self.model
        for view, active, asked in self._prepared(batch, step=step, training=training):
            outputs = forward(view, properties=asked, create_graph=training)
            for index in active:
                loss = objectives[index].loss(outputs, view, self.model)
                totals[index], counts[index] = loss.total.to(torch.float64), loss.count.to(torch.float64)
            for name in asked:
                masks = [objectives[index].entries(view) for index in active if objectives[index].predicts == name]
                metric = metrics[name]
                assert isinstance(metric, PropertyMetric)
                metric.update(outputs[name], view, torch.stack(masks).any(dim=0))
        return torch.stack([torch.stack(totals), torch.stack(counts)])

    def _prepared(
        self, batch: AtomGraph, *, step: int, training: bool
    ) -> Iterator[tuple[AtomGraph, list[int], tuple[str, ...]]]:
        """Each view of a batch that any objective wants, these objectives, and what they compare."""
        objectives = self._objectives()
        for members in self._views.values():
            active = [index for index in members if not training or step % objectives[index].every == 0]
            view = batch
            for index in active:
                stream = objectives[index].name if training else f"validation {objectives[index].name}"
                view = objectives[index].prepare(view, self._generator(step, stream))
            active = [index for index in active if objectives[index].wants(view)]
            if active:
                yield view, active, tuple(dict.fromkeys(objectives[index].predicts for index in active))

    def _generator(self, step: int, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, self.global_rank, step, stream))

    # -------------------------------------------------------------------------------------------------------- logging

    def _log_window(self, batch: AtomGraph) -> None:
        """Log means over the steps since the last time; the only place in a step that waits for the device.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(self.window)
        named = self._named_losses("train", self.window)
        self.window.zero_()
        self._refuse_not_finite("train", named)
        self.latest_scores = overall_scores(self._train_metrics())
        named |= self._named_metrics("train", self.train_metrics)
        named["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict(named, batch_size=batch.num_graphs)

    def on_train_epoch_end(self) -> None:
        """Look at the steps that no log has covered yet; they stay in the window.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        window = self.window.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(window)
        self._refuse_not_finite("train", self._named_losses("train", window))

    def on_validation_epoch_end(self) -> None:
        """Log the validation's losses and metrics, over all batches and ranks.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        named = self._named_losses("val", self.val_losses.compute())
        self.val_losses.reset()
        self._refuse_not_finite("val", named)
        named |= self._named_metrics("val", self.val_metrics)
        # The same on every rank already; `sync_dist` only tells Lightning so.
        self.log_dict(named, batch_size=1, sync_dist=True)

    def _refuse_not_finite(self, stage: str, named: dict[str, float]) -> None:
        tasks = {objective.name: objective.predicts for objective in self._objectives()}
        when = f"after step {self.trainer.global_step}"
        problem = not_finite(named, stage=stage, when=when, tasks=tasks, model=self.model)
        if problem is not None:
            raise FloatingPointError(problem)

    def _named_losses(self, stage: str, sums: Float[Tensor, "2 objectives"]) -> dict[str, float]:
        totals, counts = sums.tolist()
        named, weighted = {}, 0.0
        for objective, total, count in zip(self._objectives(), totals, counts, strict=True):
            if count > 0:
                named[f"{stage}/{objective.name}_loss"] = total / count
                weighted += objective.weight * total / count
        return {f"{stage}/loss": weighted, **named}

    def _named_metrics(self, stage: str, metrics: nn.ModuleDict) -> dict[str, float]:
        by_property: dict[str, PropertyMetric] = dict(metrics.items())  # type: ignore[arg-type]
        named = named_scores(by_property, stage=stage, dataset_names=self.dataset_names)
        for metric in by_property.values():
            metric.reset()
        return named

    # ----------------------------------------------------------------------------------------------------- checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position in the streams of randomness, and what was summed up since the last log."""
        checkpoint[CHECKPOINT_KEY] = {
            "batches_seen": self.batches_seen,
            "seed": self.seed,
            "window": self.window.clone(),
            "train_metrics": {name: metric.kept() for name, metric in self._train_metrics().items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint left off.

        The sums since the last log are those of the rank that wrote the checkpoint, and go to the first rank only:
        no entry counts twice. Checkpoints of earlier versions hold none.
        """
        kept = checkpoint[CHECKPOINT_KEY]
        self.batches_seen = int(kept["batches_seen"])
        if self.global_rank == 0 and "window" in kept:
            self.window.copy_(kept["window"])
            for name, metric in self._train_metrics().items():
                metric.restore(kept["train_metrics"][name])

    def _train_metrics(self) -> dict[str, PropertyMetric]:
        return dict(self.train_metrics.items())  # type: ignore[arg-type]


def derived_seed(seed: int, rank: int, step: int, stream: str) -> int:
    """A seed that depends on all of its arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{rank}/{step}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)
