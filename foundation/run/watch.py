"""What a long run is watched by: gradients, memory, waiting for data; and which structures made a loss go wrong.

Nothing here waits for the device between two logs: what is watched in every step stays there until the next log.
"""

from __future__ import annotations

import resource
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from foundation.data.graph import AtomGraph
from foundation.data.module import GraphDataModule
from foundation.properties import get_property
from foundation.training.progress import Throughput

__all__ = ["Watch"]

EXPLODED = 1000.0
"""A loss has exploded when it is this many times the lowest and, too, ten times the first that was logged."""
_ABOVE_FIRST = 10.0


@dataclass
class _Step:
    """A batch of this rank and what came of it; None until then.

    Attributes:
        number: As in metrics.csv.
        datasets: Number of each structure's data set.
        rows: Of the structures in their stores.
        loss: Of this rank's share, on the device.
        norm: Of the gradient, on the device.
    """

    number: int
    datasets: Tensor
    rows: Tensor
    loss: Tensor | None = None
    norm: Tensor | None = None

    def is_sound(self) -> bool:
        """Whether it ended, with numbers that are finite."""
        return self.loss is not None and all(
            bool(torch.isfinite(value)) for value in (self.loss, self.norm) if value is not None
        )


class Watch(Callback):
    """Logs how training fares, and writes down the structures of the step in which it went wrong.

    Args:
        data: Where structures are found again.
        folder: Where to write them: the run directory.
        logs_throughput: Whether nobody else logs structures a second and the wait for data.
    """

    def __init__(self, data: GraphDataModule, folder: Path, *, logs_throughput: bool) -> None:
        self._data = data
        self._folder = folder
        self._throughput = Throughput() if logs_throughput else None
        self._norms: list[Tensor] = []
        self._recent: deque[_Step] = deque()
        self._first_loss: float | None = None
        self._lowest_loss = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Remember as many steps as lie between two logs."""
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (a connector sets it)
        self._recent = deque(maxlen=max(1, every) * trainer.accumulate_grad_batches + 1)
        if self._throughput is not None:
            self._throughput = Throughput()

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: AtomGraph,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """A batch is there."""
        self._recent.append(_Step(trainer.global_step, batch.dataset_index, batch.structure_index))
        if self._throughput is not None:
            self._throughput.batch_arrived()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        """Measure the gradient before it is clipped."""
        norm = gradient_norm(pl_module)
        self._recent[-1].norm = norm
        self._norms.append(norm)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AtomGraph,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Remember the step; log now and then.

        Raises:
            FloatingPointError: The loss has exploded.
        """
        self._recent[-1].loss = outputs["loss"].detach()
        if self._throughput is not None:
            self._throughput.step_ended(batch.num_graphs * trainer.world_size)
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (a connector sets it)
        if trainer.global_step % every or not self._norms:
            return
        norms = torch.stack(self._norms)
        self._norms = []
        named = {
            "train/gradient_norm": float(norms.mean()),
            "train/gradient_norm_largest": float(norms.max()),
            "train/memory_MB": memory_mb(trainer.strategy.root_device),
        }
        if self._throughput is not None:
            structures, waiting = self._throughput.rates()
            named |= {"train/structures_per_s": structures, "train/loader_wait_percent": 100 * waiting}
        pl_module.log_dict(named, batch_size=batch.num_graphs)
        self._refuse_explosion(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Saving is not waiting for data."""
        if self._throughput is not None:
            self._throughput.interrupted()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Validating is not waiting for data."""
        if self._throughput is not None:
            self._throughput.interrupted()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Write the structures of the step that went wrong, those of each rank into a file of its own."""
        if not isinstance(exception, FloatingPointError) or trainer.validating or not self._recent:
            return
        step = next((one for one in self._recent if not one.is_sound()), None)
        if step is None:
            step = max(self._recent, key=lambda one: 0.0 if one.loss is None else float(one.loss))
        path = self._folder / f"wrong_step_{step.number}_rank_{trainer.global_rank}.extxyz"
        ase.io.write(path, self._structures(step), format="extxyz")
        exception.add_note(
            f"the {len(step.rows)} structures of step {step.number} on rank {trainer.global_rank}: {path}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"first_loss": self._first_loss, "lowest_loss": self._lowest_loss, "norms": list(self._norms)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the same losses."""
        self._first_loss, self._lowest_loss = state_dict["first_loss"], state_dict["lowest_loss"]
        self._norms = list(state_dict["norms"])

    def _refuse_explosion(self, trainer: Trainer) -> None:
        found = trainer.callback_metrics.get("train/loss")
        if found is None:
            return
        loss = float(found)
        if self._first_loss is None:
            self._first_loss = loss
        if loss > EXPLODED * self._lowest_loss and loss > _ABOVE_FIRST * self._first_loss:
            raise FloatingPointError(
                f"the train loss has exploded after step {trainer.global_step}: {loss:.4g}, the lowest was "
                f"{self._lowest_loss:.4g}; lower optimizer.learning_rate or set trainer.gradient_clip_val"
            )
        self._lowest_loss = min(self._lowest_loss, loss)

    def _structures(self, step: _Step) -> list[Atoms]:
        found = []
        for dataset, row in zip(step.datasets.tolist(), step.rows.tolist(), strict=True):
            name = self._data.dataset_names[dataset]
            graph = self._data.stores[name].graph(row)
            atoms = Atoms(graph.atomic_numbers.numpy(), positions=graph.positions.numpy())
            if bool(graph.pbc.any()):
                atoms.set_cell(graph.cell.numpy().reshape(3, 3))
                atoms.set_pbc(graph.pbc.numpy().reshape(3))
            atoms.info |= {"dataset": name, "row": row}
            for prop, values in graph.targets.items():
                is_of_atoms = get_property(prop).level == "atom"
                values = values.numpy().reshape(len(atoms), -1) if is_of_atoms else values.numpy().ravel()
                (atoms.arrays if is_of_atoms else atoms.info)[f"label_{prop}"] = values
            found.append(atoms)
        return found


def gradient_norm(module: LightningModule) -> Float[Tensor, ""]:
    """Norm of the gradient of all weights, as one vector."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=module.device)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def memory_mb(device: torch.device) -> float:
    """Most memory in use so far, 10⁶ bytes: tensors on an accelerator, else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
