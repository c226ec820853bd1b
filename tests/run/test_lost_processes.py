"""The news that another process of a training has ended, wherever it arrives."""

from __future__ import annotations

from typing import NoReturn

import pytest
from lightning.pytorch import Trainer

from foundation.run.lost_processes import explained_losses

NEWS = "DataLoader worker (pid {}) is killed by signal: Killed."


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)


def lose_another_while_ending() -> NoReturn:
    try:
        raise RuntimeError(NEWS.format(1))
    except RuntimeError as first:
        raise RuntimeError(NEWS.format(2)) from first


def be_interrupted_in_a_check() -> NoReturn:
    try:
        raise RuntimeError(NEWS.format(1))
    except RuntimeError:
        raise TypeError("no shape fits")  # noqa: B904 -- torch's news amid a check of shapes looks like this


def test_loss_of_a_second_loading_process_while_the_first_is_handled_is_explained(trainer: Trainer) -> None:
    with pytest.raises(RuntimeError, match="pid 2") as caught, explained_losses(trainer):
        lose_another_while_ending()
    (note,) = caught.value.__notes__
    assert note.startswith("one of the processes that load data (num_workers) was ended from outside after step 0")


def test_loss_that_a_check_of_shapes_hides_is_explained(trainer: Trainer) -> None:
    with pytest.raises(TypeError) as caught, explained_losses(trainer):
        be_interrupted_in_a_check()
    assert "was ended from outside" in caught.value.__notes__[0]


def test_other_errors_get_no_note(trainer: Trainer) -> None:
    with pytest.raises(RuntimeError) as caught, explained_losses(trainer):
        raise RuntimeError("Broken pipe")  # of a single rank: no other one is lost
    assert not hasattr(caught.value, "__notes__")
