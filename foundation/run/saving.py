"""When checkpoints to resume from are written, and that a run which is asked to stop stops after one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, distributed

from foundation.errors import InterruptionError
from foundation.run.checkpoint_files import CheckpointFolder
from foundation.run.csv_log import CsvLog
from foundation.run.interruption import SIGNALS, Agreement, Interruption
from foundation.training.module import FoundationModule

__all__ = ["RankSums", "Saving"]

_RANKS_KEY = "foundation_ranks"


class Saving(Checkpoint):
    """Saves every few minutes, after every epoch, where `max_time` stops the run, and when a signal asks to stop.

    A checkpoint stands between two optimizer steps, after the validation where one is due: then nothing is done twice
    or left out when a run resumes from it. A `Checkpoint`, because those act after all other callbacks: averages and
    schedules have moved.

    Args:
        folder: Where.
        minutes: Between two checkpoints, by the clock of the rank whose clock runs fastest.
        interruption: Knows whether a signal has come to this rank.
        log: Is brought to the disk before a checkpoint that counts on its rows.
    """

    def __init__(self, folder: CheckpointFolder, *, minutes: float, interruption: Interruption, log: CsvLog) -> None:
        self._folder = folder
        self._minutes = minutes
        self._interruption = interruption
        self._log = log
        self._agreement = Agreement()
        self._stopped_by: str | None = None
        self._wants_save = False
        self._saved_at = time.monotonic()
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """From here on a signal waits for the end of a step."""
        self._agreement.start(world_size=trainer.world_size)
        self._interruption.is_training = True
        self._interruption.listen_again()
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            self._folder.set_aside_after(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save if it is time to, unless an optimizer step is half done or a validation comes first.

        Raises:
            InterruptionError: Saved, as a signal had come.
        """
        is_time = time.monotonic() - self._saved_at > 60 * self._minutes
        *signals, saves = self._agreement.any_rank(*self._interruption.flags, is_time)
        self._note_signals(signals)
        self._wants_save |= saves
        if trainer.should_stop and not trainer.is_last_batch:
            # Lightning counts an epoch that is stopped as done; a resumed run does the rest of it.
            self._save(trainer, before_its_row=True)
        elif (self._stopped_by or self._wants_save) and _is_between_steps(trainer):
            self._save(trainer, before_its_row=True)
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save what had to wait for a validation amid an epoch.

        Raises:
            InterruptionError: Saved, as a signal had come.
        """
        is_amid_epoch = self._interruption.is_training and not trainer.is_last_batch
        if not is_amid_epoch or trainer.should_stop:
            return
        self._note_signals(self._agreement.now(*self._interruption.flags))
        if self._stopped_by or self._wants_save:
            self._save(trainer, before_its_row=False)
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save every epoch that ran to its end.

        Raises:
            InterruptionError: Saved, as a signal had come.
        """
        if trainer.should_stop and not trainer.is_last_batch:
            return
        self._note_signals(self._agreement.now(*self._interruption.flags))
        self._save(trainer, before_its_row=False)
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """What comes now ends at once when a signal comes."""
        self._agreement.rest()
        self._interruption.is_training = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """A signal ends at once what is being given up."""
        self._interruption.is_training = False

    def _save(self, trainer: Trainer, *, before_its_row: bool) -> None:
        step = trainer.global_step
        self._wants_save = False
        self._saved_at = time.monotonic()
        if step == self._saved_step:
            return
        self._saved_step = step
        if before_its_row:
            # Lightning writes a step's row after this hook. It has to be there first: nobody logs that step again.
            trainer._logger_connector.update_train_step_metrics()
        self._log.bring_to_disk()
        trainer.save_checkpoint(self._folder.at(step))
        if trainer.is_global_zero:
            self._folder.keep_last()

    def _note_signals(self, flags: Sequence[bool]) -> None:
        """Remember the first signal that any rank got; every rank remembers the same one."""
        for signal, is_set in zip(SIGNALS, flags, strict=False):
            if is_set and self._stopped_by is None:
                self._stopped_by = signal.name

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._stopped_by is not None:
            where = f"after step {trainer.global_step}: {self._folder.at(trainer.global_step)}"
            raise InterruptionError(self._stopped_by, where=where)


def _is_between_steps(trainer: Trainer) -> bool:
    """Whether a batch that has just ended completed an optimizer step, and neither validation nor epoch end follow."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return not (loop._should_accumulate() or loop._num_ready_batches_reached() or loop._should_check_val_fx(fetcher))


class RankSums(Callback):
    """Keeps what every rank has summed up since the last log, so that a resumed run logs what it would have logged."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather from all ranks; every rank comes here."""
        if trainer.world_size == 1:
            return  # the module's own state holds it
        assert isinstance(pl_module, FoundationModule)
        gathered: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(gathered, _on_cpu(_sums_of(pl_module)))
        checkpoint[_RANKS_KEY] = gathered

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give each rank its own sums; on another number of ranks the first one gets those of all."""
        kept = checkpoint.get(_RANKS_KEY, [])
        assert isinstance(pl_module, FoundationModule)
        if len(kept) == trainer.world_size:
            own = kept[trainer.global_rank]
        elif kept and trainer.is_global_zero:
            own = _together(kept)
        else:
            return  # of a single rank: the module's own state holds it, for the first rank
        pl_module.window.copy_(own["window"])
        for name, metric in pl_module._train_metrics().items():
            metric.restore(own["train_metrics"][name])


def _sums_of(module: FoundationModule) -> dict[str, Any]:
    return {
        "window": module.window.clone(),
        "train_metrics": {name: metric.kept() for name, metric in module._train_metrics().items()},
    }


def _together(kept: Sequence[Any]) -> Any:
    """Sums of several ranks as those of one: added, and lists put behind one another."""
    first = kept[0]
    if isinstance(first, Mapping):
        return {key: _together([one[key] for one in kept]) for key in first}
    if isinstance(first, list):
        return [part for one in kept for part in one]
    return torch.stack(list(kept)).sum(dim=0)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    return [_on_cpu(inner) for inner in value] if isinstance(value, list) else value
