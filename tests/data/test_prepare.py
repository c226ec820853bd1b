"""Preparing in parallel, in parts and in spite of interruptions gives the same store, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foundation.cli import main
from foundation.config import dump_yaml
from foundation.data import store_parts
from foundation.data.card import DatasetConfig, resolve
from foundation.data.prepare import merge, prepare, prepare_shard
from foundation.data.source_digest import source_digests
from foundation.data.store import Store
from foundation.errors import InputError


def write_source(path: Path, count: int, *, first: int = 0) -> None:
    """Structures of four atoms, none like another."""
    noise = np.random.default_rng(first).normal(scale=0.05, size=(count, 4, 3))
    grid = np.array([[0.0, 0, 0], [1.2, 0, 0], [0, 1.2, 0], [0, 0, 1.2]])
    with path.open("w") as file:
        for number in range(count):
            file.write(f'4\nProperties=species:S:1:pos:R:3 energy={-first - number}.5 pbc="F F F"\n')
            for symbol, (x, y, z) in zip("CHHO", grid + noise[number], strict=True):
                file.write(f"{symbol} {x:.8f} {y:.8f} {z:.8f}\n")


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Three files of 230, 40 and 60 structures; a card file."""
    for number, count in enumerate((230, 40, 60)):
        write_source(tmp_path / f"part{number}.xyz", count, first=1000 * number)
    return write_card(tmp_path)


def write_card(folder: Path) -> Path:
    facts = {
        "source": str(folder / "part*.xyz"),
        "level_of_theory": "PBE",
        "charge": 0,
        "spin": 1,
        "properties": {"energy": {"key": "energy", "unit": "eV"}},
    }
    path = folder / "card.yaml"
    path.write_text(dump_yaml(facts))
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 25 frames: many of them in a small source. Processes that are started do not see it."""
    monkeypatch.setattr(store_parts, "CHUNK_FRAMES", 25)


def checksums(store: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(store.iterdir())}


@pytest.mark.usefixtures("small_chunks")
def test_parts_in_any_number_and_order_make_the_same_store(card: Path, tmp_path: Path) -> None:
    dataset = resolve(DatasetConfig(card=str(card)))
    whole = prepare(dataset, cache_dir=tmp_path / "whole")
    assert len(whole) == 330
    assert whole.names[231].endswith("part1.xyz: frame 1")
    assert len(list(whole.path.glob("structures-*"))) == 10 + 2 + 3
    expected = checksums(whole.path)
    for of in (1, 2, 3, 7):
        cache = tmp_path / f"parts{of}"
        for shard in reversed(range(of)):
            assert prepare_shard(dataset, shard=shard, of=of, cache_dir=cache) is None
        store = merge(dataset, cache_dir=cache)
        store.verify()
        assert checksums(store.path) == expected, of
        assert [path.name for path in cache.iterdir() if any(path.iterdir())] == ["stores"], "nothing is left behind"
        assert prepare_shard(dataset, shard=0, of=of, cache_dir=cache) == store.path


@pytest.mark.usefixtures("small_chunks")
def test_parts_are_equal_and_none_does_anothers_work(card: Path, tmp_path: Path) -> None:
    dataset = resolve(DatasetConfig(card=str(card)))
    made = []
    for shard in range(3):
        records: list[None] = []
        prepare_shard(
            dataset, shard=shard, of=3, cache_dir=tmp_path / "cache", on_record=lambda r=records: r.append(None)
        )
        made.append(len(records))
    assert sum(made) == 330
    assert max(made) - min(made) <= 50, "two chunks"
    again: list[None] = []
    prepare(dataset, cache_dir=tmp_path / "cache", on_record=lambda: again.append(None))
    assert again == [], "all was there"


@pytest.mark.usefixtures("small_chunks")
def test_what_is_missing_is_named_by_merge_and_made_by_prepare(card: Path, tmp_path: Path) -> None:
    dataset = resolve(DatasetConfig(card=str(card)))
    with pytest.raises(InputError, match="3 of 3 source files are not prepared to the end"):
        merge(dataset, cache_dir=tmp_path)
    prepare_shard(dataset, shard=1, of=2, cache_dir=tmp_path)
    with pytest.raises(InputError, match=r"(?s)1 of 3 source files are not.*part0\.xyz: .* chunks, first"):
        merge(dataset, cache_dir=tmp_path)
    assert len(prepare(dataset, cache_dir=tmp_path)) == 330
    with pytest.raises(InputError, match="--shard 2 --of 2: no such part; allowed: --shard 0 to 1"):
        prepare_shard(dataset, shard=2, of=2, cache_dir=tmp_path)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_part_that_was_damaged_is_made_again_or_named(card: Path, tmp_path: Path, damage: str) -> None:
    dataset = resolve(DatasetConfig(card=str(card)))
    prepare_shard(dataset, shard=0, of=1, cache_dir=tmp_path)
    (shard,) = tmp_path.glob("parts/*/store/structures-00000-000003.arrow")
    content = bytearray(shard.read_bytes())
    if damage == "truncate":
        os.truncate(shard, len(content) - 8)
        assert len(prepare(dataset, cache_dir=tmp_path)) == 330
    else:
        content[-600] ^= 1
        shard.write_bytes(content)
        with pytest.raises(InputError, match=r"structures-00000-000003\.arrow: corrupt store shard: sha256.*delete"):
            merge(dataset, cache_dir=tmp_path)


@pytest.mark.usefixtures("small_chunks")
def test_a_fault_of_the_source_leaves_no_parts_behind(card: Path, tmp_path: Path) -> None:
    with (tmp_path / "part2.xyz").open("a") as file:
        file.write('1\nProperties=species:S:1:pos:R:3 energy=nan pbc="F F F"\nH 0 0 0\n')
    with pytest.raises(InputError, match=r"part2\.xyz: frame 60"):
        prepare(resolve(DatasetConfig(card=str(card))), cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "parts").glob("*/"))


def test_processes_make_the_same_store_and_report_faults(card: Path, tmp_path: Path) -> None:
    dataset = resolve(DatasetConfig(card=str(card)))
    alone = prepare(dataset, cache_dir=tmp_path / "alone")
    seen: list[None] = []
    together = prepare(dataset, cache_dir=tmp_path / "together", workers=3, on_record=lambda: seen.append(None))
    assert checksums(together.path) == checksums(alone.path)
    assert len(seen) == 330
    (tmp_path / "part1.xyz").write_text("two\n")
    with pytest.raises(InputError, match="where the number of atoms must stand"):
        prepare(dataset, cache_dir=tmp_path / "together", workers=2)


def test_digests_of_large_files_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundation.data.source_digest.REMEMBERED_BYTES", 10)
    file, cache = tmp_path / "large.xyz", tmp_path / "cache"
    file.write_bytes(b"0123456789ab")
    (fresh,) = source_digests([file], cache_dir=cache)
    assert not list(cache.rglob("*.json")), "just written: it may change again within its time stamp"
    long_ago = time.time_ns() - 10**12
    os.utime(file, ns=(long_ago, long_ago))
    assert source_digests([file], cache_dir=cache) == [fresh]
    (note,) = cache.rglob("*.json")
    known = json.loads(note.read_text())
    note.write_text(json.dumps(known | {"sha256": "remembered"}))
    assert source_digests([file], cache_dir=cache) == ["remembered"]
    os.utime(file, ns=(long_ago + 1, long_ago + 1))
    assert source_digests([file], cache_dir=cache) == [fresh]


def test_the_command_line_prepares_in_parts(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    assert main(["data", "prepare", str(card), "--shard", "0"]) == 2
    assert "--shard and --of go together" in capsys.readouterr().err
    assert main(["data", "prepare", str(card), "--merge"]) == 2
    for shard in ("0", "1"):
        assert main(["data", "prepare", str(card), "--shard", shard, "--of", "2"]) == 0
        assert f"part {shard} of 2 is there" in capsys.readouterr().out
    assert main(["data", "prepare", str(card), "--merge"]) == 0
    assert "330 structures, verified" in capsys.readouterr().out
    assert main(["data", "prepare", str(card), "--shard", "0", "--of", "2"]) == 0
    assert "the store is complete" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_store(tmp_path: Path) -> None:
    """SIGKILL to the whole process group, as a machine that goes down."""
    write_source(tmp_path / "part0.xyz", 60_000)
    card = write_card(tmp_path)
    expected = prepare(resolve(DatasetConfig(card=str(card))), cache_dir=tmp_path / "whole").path
    command = [sys.executable, "-m", "foundation.cli", "data", "prepare", str(card), "--workers", "2"]
    environment = os.environ | {"FOUNDATION_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    draw = random.Random(0)
    kills = 0
    while kills < 5:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(4.0, 12.0))
            break  # it was done before its time came
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 0
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (store,) = (tmp_path / "cache" / "stores").iterdir()
    assert checksums(store) == checksums(expected)
    Store.open(store).verify()
