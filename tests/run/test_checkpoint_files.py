"""Checkpoints are whole or not there; damaged ones are passed over; a newer version's are refused."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foundation.errors import InputError
from foundation.run import checkpoint_files
from foundation.run.checkpoint_files import CheckpointFiles, CheckpointFolder, damage_of


def write(folder: CheckpointFolder, step: int) -> Path:
    CheckpointFiles().save_checkpoint({"weights": torch.full((5_000,), float(step)), "step": step}, folder.at(step))
    return folder.at(step)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_newest_is_that_of_the_most_steps_whatever_the_clocks_say(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (90, 100, 1000):
        os.utime(write(folder, step), (10_000 - step, 10_000 - step))
    folder.keep_last()
    assert [step for step, _ in folder.by_age()] == [1000, 100]
    assert folder.newest(says=False) == folder.at(1000)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty"])
def test_a_damaged_newest_one_falls_back_to_the_one_before(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(tmp_path)
    before, newest = write(folder, 10), write(folder, 20)
    content = bytearray(newest.read_bytes())
    if harm == "flipped":
        content[random.Random(0).randrange(len(content))] ^= 1
    newest.write_bytes(content if harm == "flipped" else content[: len(content) // 2] if harm == "truncated" else b"")
    assert folder.newest(says=True) == before
    assert f"'{newest}': damaged" in capsys.readouterr().err
    folder.set_aside_after(10)
    assert [step for step, _ in folder.by_age()] == [10]
    before.write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        folder.newest(says=False)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = write(CheckpointFolder(tmp_path), 1)
    content, chance = path.read_bytes(), random.Random(0)
    # In the data and, as that has no checksum of its own, in the directory at the end.
    places = [chance.randrange(len(content)) for _ in range(50)] + [chance.randrange(-900, 0) for _ in range(50)]
    for place in places:
        harmed = bytearray(content)
        harmed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(harmed)
        if damage_of(path) is None:  # a byte that means nothing
            assert torch.equal(CheckpointFiles().load_checkpoint(path)["weights"], torch.full((5_000,), 1.0))


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path) -> None:
    folder = CheckpointFolder(small_disk)
    write(folder, 1)
    with pytest.raises(OSError, match="step-000000002") as caught:
        write(folder, 2)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir()] == ["step-000000001.ckpt"]
    assert folder.newest(says=False) == folder.at(1)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "FORMAT", 2)
        path = write(CheckpointFolder(tmp_path), 1)
    with pytest.raises(InputError, match=r"format 2 of a newer version of foundation; allowed: up to 1"):
        CheckpointFiles().load_checkpoint(path)
