"""A store appears whole or not at all, and a broken one says so: which shard, and how to rebuild it."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from foundation.data.readers import Record
from foundation.data.store import Store
from foundation.data.store_files import atomic_folder
from foundation.data.store_writer import write_store
from foundation.errors import InputError

FORK = multiprocessing.get_context("fork")
NEW_MOUNTS, PRIVATE_AND_RECURSIVE = 0x00020000, (1 << 18) | (1 << 14)
"""CLONE_NEWNS; MS_PRIVATE | MS_REC."""


def records(count: int) -> Iterator[Record]:
    for number in range(count):
        yield Record(
            positions=np.arange(60.0).reshape(20, 3) + number,
            atomic_numbers=np.full(20, 6),
            cell=None,
            pbc=(False, False, False),
            total_charge=0.0,
            spin_multiplicity=1,
            targets={"energy": np.array(float(number))},
            group="",
            split=None,
            smiles=None,
            where=f"frame {number}",
        )


def write(path: Path, source: Iterator[Record]) -> None:
    write_store(path, source, level_of_theory="PBE", metadata={}, shard_bytes=20_000)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of several shards."""
    path = tmp_path / "store"
    write(path, records(100))
    assert len(list(path.glob("structures-*.arrow"))) > 2
    return path


# -------------------------------------------------------------------------------------------------------- broken stores


def read(store: Path, row: int) -> bytes | str:
    """Everything that the store says of a structure, or its error."""
    try:
        opened = Store.open(store)
        arrays = opened.arrays(row)
        facts = (opened.names[row], opened.formulas[row], int(opened.num_atoms[row]))
        return b"".join(name.encode() + values.tobytes() for name, values in arrays.items()) + str(facts).encode()
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["structures", "index"])
def test_a_changed_byte_is_found_or_changes_nothing(store: Path, kind: str) -> None:
    """Wherever it lies: a structure is read as it was written, or its file is named as corrupt."""
    shard = store / f"{kind}-00001.arrow"
    content = shard.read_bytes()
    rows = [0, 40, 50, 60]
    before = [read(store, row) for row in rows]
    random = np.random.default_rng(0)
    found = 0
    for place in sorted(random.choice(len(content), size=60, replace=False).tolist()):
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        shard.write_bytes(changed)
        for row, expected in zip(rows, before, strict=True):
            got = read(store, row)
            if got != expected:
                assert isinstance(got, str)
                assert "corrupt store shard" in got
                assert shard.name in got
                assert "delete" in got
                assert "rebuild" in got
                assert row != 0 or kind == "index", "other shards stay readable"
                found += 1
        with pytest.raises(InputError, match=rf"{shard.name}: corrupt store shard: sha256.*delete.*rebuild"):
            Store.open(store).verify()
    assert found > 0


def test_a_shard_cut_short_is_found_when_the_store_is_opened(store: Path) -> None:
    shard = store / "structures-00002.arrow"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(InputError, match=r"structures-00002\.arrow: corrupt store shard: it has .* bytes.*rebuild"):
        Store.open(store)


def test_a_missing_shard_is_named(store: Path) -> None:
    (store / "structures-00000.arrow").unlink()
    with pytest.raises(InputError, match=r"structures-00000\.arrow: store shard is missing.*rebuild"):
        Store.open(store)


def test_a_missing_index_is_named(store: Path) -> None:
    (store / "index-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"index-00001\.arrow: store shard is missing.*rebuild"):
        Store.open(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{}", b'{"format_version": 2, "sha256": "0"}'])
def test_damaged_metadata_is_an_error(store: Path, content: bytes) -> None:
    (store / "metadata.json").write_bytes(content)
    with pytest.raises(InputError, match=r"metadata\.json: corrupt store metadata.*rebuild"):
        Store.open(store)


def test_edited_metadata_is_an_error(store: Path) -> None:
    file = store / "metadata.json"
    content = json.loads(file.read_text())
    content["level_of_theory"] = "CCSD(T)"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="its checksum differs"):
        Store.open(store)


def test_another_format_version_is_an_error(store: Path) -> None:
    file = store / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match="format version 99; this program reads 2"):
        Store.open(store)


def test_a_folder_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a store"):
        Store.open(tmp_path)


# ------------------------------------------------------------------------------------------------------ all or nothing


def failing(error: BaseException) -> Iterator[Record]:
    yield from records(60)
    raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), KeyboardInterrupt(), InputError("frame 60 is bad"), OSError(5, "x")]
)
def test_an_interrupted_store_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write(tmp_path / "store", failing(error))
    assert caught.value is error, "a fault of the source is not blamed on the disk"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(store: Path) -> None:
    before = sorted((file.name, file.stat().st_mtime_ns) for file in store.iterdir())
    with pytest.raises(FileExistsError):
        write(store, records(3))
    assert sorted((file.name, file.stat().st_mtime_ns) for file in store.iterdir()) == before


def test_who_finishes_second_leaves_the_first_ones_store(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def overtaken() -> Iterator[Record]:
        yield from records(5)
        write(path, records(7))

    with pytest.raises(FileExistsError):
        write(path, overtaken())
    assert len(Store.open(path)) == 7
    assert list(tmp_path.iterdir()) == [path]


def _write_and_stall(path: Path, ready: Path) -> None:
    def endless() -> Iterator[Record]:
        yield from records(60)
        ready.touch()
        time.sleep(60.0)

    write(path, endless())


def test_a_killed_writer_leaves_no_store_and_its_rest_is_cleared_away(tmp_path: Path) -> None:
    path, ready = tmp_path / "stores" / "store", tmp_path / "ready"
    writer = FORK.Process(target=_write_and_stall, args=(path, ready))
    writer.start()
    while not ready.exists():
        time.sleep(0.01)
    (partial,) = path.parent.iterdir()
    long_ago = time.time() - 3600.0
    os.utime(partial, (long_ago, long_ago))
    write(path.parent / "other", records(3))
    assert partial.exists(), "a store that is still being written is left alone, however old"

    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    os.utime(partial, (long_ago, long_ago))
    assert not path.exists()
    write(path, records(5))
    assert len(Store.open(path)) == 5
    assert sorted(file.name for file in path.parent.iterdir()) == ["other", "store"]


def in_child(action: Callable[[], None]) -> str:
    """What `action` says in a process of its own: the message of its InputError, or what else became of it."""
    receiver, sender = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            action()
            sender.send("no error")
        except InputError as error:
            sender.send(str(error))
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")

    child = FORK.Process(target=run)
    child.start()
    child.join(timeout=60.0)
    assert child.exitcode == 0
    return receiver.recv()


def test_a_refused_write_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        write(tmp_path / "store", records(100))

    message = in_child(limited)
    assert "no room left" in message
    assert "FOUNDATION_CACHE" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kilobytes", [16, 40, 64])
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, kilobytes: int) -> None:
    """On a real file system of a few kilobytes, full at different moments: amid a shard, the index, the metadata."""
    libc = ctypes.CDLL(None, use_errno=True)

    def on_small_disk() -> None:
        if libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, PRIVATE_AND_RECURSIVE, None):
            raise PermissionError("mount")
        size = f"size={kilobytes}k".encode()
        if libc.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, size):
            raise PermissionError("mount")
        try:
            write(tmp_path / "store", records(100))
        finally:
            left = list(tmp_path.iterdir())
            assert left == [], left

    message = in_child(on_small_disk)
    if message == "PermissionError: mount":
        pytest.skip("no right to mount a small disk here")
    assert "no room left" in message, message


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="the store cannot be written"):
        write(tmp_path / "file" / "store", records(3))


def test_the_temporary_folder_lies_beside_the_final_one(tmp_path: Path) -> None:
    """Renaming is atomic only within one file system."""
    with atomic_folder(tmp_path / "store") as partial:
        assert partial.parent == tmp_path
        (partial / "file").write_text("x")
    assert (tmp_path / "store" / "file").read_text() == "x"
