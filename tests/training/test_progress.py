"""What is shown while training."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from lightning.pytorch import Trainer

from foundation.data.module import GraphDataModule
from foundation.model import FoundationModel
from foundation.training.module import FoundationModule
from foundation.training.objectives import SupervisedConfig, build_objectives
from foundation.training.optim import AdamWConfig
from foundation.training.progress import Throughput, TrainingProgress, format_error
from foundation.training.schedule import ScheduleConfig


def test_errors_are_short_and_carry_their_unit() -> None:
    assert format_error(0.01234, "eV/Å") == "12.3 meV/Å"
    assert format_error(3.2, "eV") == "3.2 eV"
    assert format_error(0.5, "e·Å") == "0.5 e·Å"
    assert format_error(0.834, "") == "83 %"


def test_waiting_is_counted_between_steps_but_not_across_interruptions() -> None:
    throughput = Throughput()
    throughput.step_ended(8)
    time.sleep(0.05)
    throughput.batch_arrived()
    assert 0.04 < throughput.waited < 0.5
    waited = throughput.waited
    throughput.step_ended(8)
    throughput.interrupted()
    time.sleep(0.01)
    throughput.batch_arrived()
    assert throughput.waited == waited
    structures, share = throughput.rates()
    assert structures > 0
    assert 0 < share <= 1
    assert throughput.structures == 0


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_without_a_terminal_lines_show_loss_errors_speed_and_waiting(
    make_model: Callable[[], FoundationModel],
    make_data: Callable[[], GraphDataModule],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_model()
    tasks = {name: SupervisedConfig(property=name, weight=1.0) for name in ("energy", "forces")}
    names = ("first", "second")
    module = FoundationModule(
        model,
        build_objectives(tasks, model=model, dataset_names=names),
        optimizer=AdamWConfig(),
        schedule=ScheduleConfig(),
        ema=None,
        dataset_names=names,
        seed=0,
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
        callbacks=[TrainingProgress()],
    )
    trainer.fit(module, datamodule=make_data())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"step {trainer.global_step} epoch ")
    for part in ("loss ", "val ", "energy ", "eV/atom", "forces ", "eV/Å", "structures/s", "% waiting for data"):
        assert part in last
