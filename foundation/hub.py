"""Where a model lies: a run or model directory, a URL that fsspec opens, or `org/name@revision` on the Hugging Face
hub.

Everything is turned into a local model directory. Only the files of a model are fetched, and none of them is executed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs

from foundation.errors import InputError
from foundation.resources import cache_dir

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RAW_WEIGHTS_FILE = "raw.safetensors"
CARD_FILE = "README.md"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, RAW_WEIGHTS_FILE, CARD_FILE)
_REQUIRED = (CONFIG_FILE, WEIGHTS_FILE)

_HUB_ID = re.compile(r"^(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)$")
_UNPINNED_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve_model(model: str | Path) -> Path:
    """Find the model directory that `model` names, fetching it if it lies elsewhere.

    Args:
        model: A run directory (its `model/` is taken), a model directory, a URL such as `s3://bucket/model`, or a hub
            id `org/name@revision`.

    Returns:
        A local directory with `config.json` and `model.safetensors`.

    Raises:
        InputError: Nothing is there, it is not a model, or the hub cannot be reached.
    """
    text = str(model)
    if "://" in text:
        return _fetch_url(text)
    directory = Path(text).expanduser()
    if directory.exists():
        return _local_directory(directory)
    match = _HUB_ID.match(text)
    if match is not None:
        return _fetch_from_hub(match["repository"], match["revision"])
    hint = (
        f"; if it is on the Hugging Face hub, state its revision: '{text}@main'" if _UNPINNED_HUB_ID.match(text) else ""
    )
    raise InputError(
        f"model '{text}': no such directory; allowed: a run directory, a model directory, a URL or a hub id "
        f"'org/name@revision'{hint}"
    )


def _local_directory(directory: Path) -> Path:
    if not directory.is_dir():
        raise InputError(f"model '{directory}': is a file; allowed: a directory with {' and '.join(_REQUIRED)}")
    for candidate in (directory / "model", directory):
        if (candidate / CONFIG_FILE).is_file() and (candidate / WEIGHTS_FILE).is_file():
            return candidate
    if (directory / "recipe.yaml").is_file():
        raise InputError(
            f"model '{directory}': this run has no finished model yet (model/{WEIGHTS_FILE} is missing); "
            "finish it with `foundation train … --resume`"
        )
    missing = [name for name in _REQUIRED if not (directory / name).is_file()]
    raise InputError(f"model '{directory}': not a run or model directory: {' and '.join(missing)} missing")


def _fetch_url(url: str) -> Path:
    """Copy a model from a URL into the cache; weights that are already there are kept if `config.json` is unchanged."""
    try:
        system, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"model '{url}': {error}; allowed: a URL whose protocol fsspec knows") from error
    base = root.rstrip("/")
    try:
        if system.exists(f"{base}/model/{CONFIG_FILE}"):
            base = f"{base}/model"
        config = system.cat_file(f"{base}/{CONFIG_FILE}")
        target = cache_dir() / "models" / hashlib.sha256(url.encode() + config).hexdigest()[:24]
        if not all((target / name).is_file() for name in _REQUIRED):
            _copy_model(system, base, target)
    except FileNotFoundError as error:
        raise InputError(f"model '{url}': not a run or model directory: {error}") from error
    except OSError as error:
        raise InputError(f"model '{url}': cannot be read: {error}") from error
    return target


def _copy_model(system: fsspec.AbstractFileSystem, base: str, target: Path) -> None:
    """Fetch the files of a model into `target`, which appears only when all of them have arrived."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        for name in MODEL_FILES:
            if name in _REQUIRED or system.exists(f"{base}/{name}"):
                system.get_file(f"{base}/{name}", str(staging / name))
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_from_hub(repository: str, revision: str) -> Path:
    # Imported here: it costs half a second, and most models are local.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    where = f"model '{repository}@{revision}'"
    try:
        directory = snapshot_download(repository, revision=revision, allow_patterns=list(MODEL_FILES))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise InputError(
            f"{where}: no such directory here, and the Hugging Face hub cannot be reached (it is not in the local "
            "cache either); check the network or HF_HUB_OFFLINE, or give a local directory"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"{where}: the Hugging Face hub refused it: {error}") from error
    return _local_directory(Path(directory))
