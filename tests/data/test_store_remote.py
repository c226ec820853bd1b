"""A store at an address is read through a verified local cache."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from foundation.data.readers import Record
from foundation.data.store import Store
from foundation.data.store_writer import write_store
from foundation.errors import InputError

NUM_STRUCTURES = 60


@pytest.fixture
def store(tmp_path: Path, make_record: Callable[..., Record]) -> Path:
    """A store of several shards."""
    records = (
        make_record(number, np.arange(30.0).reshape(10, 3) + number, element=6) for number in range(NUM_STRUCTURES)
    )
    path = tmp_path / "served" / "store"
    write_store(path, records, level_of_theory="PBE", metadata={"licence": "CC0"}, shard_bytes=5_000)
    assert len(list(path.glob("structures-*"))) > 2
    return path


class _Requests(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes down which."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(store: Path) -> Iterator[str]:
    """The store on a web server."""
    _Requests.asked = []
    handler = functools.partial(_Requests, directory=store.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/store"
        server.shutdown()


def downloaded(name: str) -> int:
    return sum(path.endswith(name) for path in _Requests.asked)


def test_a_store_on_a_web_server_is_read_shard_by_shard_and_once(store: Path, address: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    remote, local = Store.open(address, cache_dir=cache), Store.open(store)
    assert len(remote) == NUM_STRUCTURES
    assert remote.metadata == local.metadata
    assert not any("arrow" in path for path in _Requests.asked), "nothing is fetched before it is used"
    assert remote.arrays(0)["positions"].tolist() == local.arrays(0)["positions"].tolist()
    assert {Path(path).name for path in _Requests.asked if "arrow" in path} == {"structures-00000.arrow"}
    for _ in range(2):
        again = Store.open(address, cache_dir=cache)
        for row in range(NUM_STRUCTURES):
            assert again.arrays(row)["positions"].tolist() == local.arrays(row)["positions"].tolist()
        assert again.names == local.names
        again.verify()
    assert downloaded("structures-00000.arrow") == downloaded("index-00001.arrow") == 1
    assert not list(cache.rglob("*.partial"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing"])
def test_an_address_that_serves_something_else_is_one_clear_error(
    store: Path, address: str, tmp_path: Path, damage: str
) -> None:
    shard = store / "structures-00001.arrow"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "truncate":
        os.truncate(shard, len(content) - 1)
    else:
        shard.unlink()
    remote = Store.open(address, cache_dir=tmp_path / "cache")
    assert len(remote.arrays(0)["positions"]) == 30
    problem = "cannot be read" if damage == "missing" else "corrupt store shard: the address serves .* upload"
    with pytest.raises(InputError, match=rf"{address}/structures-00001\.arrow: {problem}"):
        remote.arrays(20)
    assert not [path for path in (tmp_path / "cache").rglob("*00001*") if path.suffix != ".lock"], "nothing is kept"


def test_a_cached_shard_that_was_cut_short_or_changed_is_an_error(address: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Store.open(address, cache_dir=cache).arrays(0)
    (shard,) = cache.rglob("structures-00000.arrow")
    content = bytearray(shard.read_bytes())
    places = content.find(np.float64(1.0).tobytes())
    content[places] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"structures-00000\.arrow: corrupt store shard: the checksum of.*delete"):
        Store.open(address, cache_dir=cache).arrays(0)
    os.truncate(shard, len(content) - 1)
    with pytest.raises(InputError, match=r"structures-00000\.arrow: corrupt store shard: it has .* bytes.*delete"):
        Store.open(address, cache_dir=cache).arrays(0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense://somewhere/store", "nonsense"),
        ("file:///nowhere/store", r"file:///nowhere/store/metadata\.json: cannot be read"),
    ],
)
def test_an_address_that_cannot_be_read_is_an_error(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store.open(address, cache_dir=tmp_path)
