"""A model directory: `model.safetensors`, `config.json` and a model card; reading it executes nothing.

`model.safetensors` holds the weights that are used: the moving average if training kept one. The raw weights then lie
beside it as `raw.safetensors`, so that training can go on from either.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundation.checkpoint.card import CardInfo, write_card
from foundation.config import Config, to_dict, validate
from foundation.devices import usable_device
from foundation.errors import InputError
from foundation.hub import CARD_FILE, CONFIG_FILE, RAW_WEIGHTS_FILE, WEIGHTS_FILE, resolve_model
from foundation.migrations import FORMAT_VERSION, migrate
from foundation.model import FoundationModel, ModelConfig
from foundation.properties import PROPERTIES

INTERNAL_UNITS = {"energy": "eV", "length": "Å", "charge": "e", "mass": "amu", "time": "fs", "temperature": "K"}


class CheckpointConfig(Config):
    """`config.json`, format version 2.

    Attributes:
        format_version: Of this file and of the names of the tensors.
        foundation_version: The release that wrote it; for people, never read.
        model: What `FoundationModel` is built from.
        scaling_provenance: How reference energies and scales were obtained.
        units: Internal units, and the unit of every property that the model predicts.
        weights: File -> SHA-256.
    """

    format_version: Literal[3]
    foundation_version: str
    model: ModelConfig
    scaling_provenance: dict[str, Any]
    units: dict[str, str]
    weights: dict[str, str]


def save_model(
    model: FoundationModel,
    directory: Path | str,
    *,
    card_info: CardInfo,
    raw_state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model directory; what stood there is replaced only when everything has been written.

    Args:
        model: With the weights to use: averaged ones if training averaged.
        directory: Its parent need not exist.
        card_info: What the model card says beyond what the model itself knows.
        raw_state: The state without averaging, if `model` carries averaged weights.

    Raises:
        InputError: The directory cannot be written.
    """
    directory = Path(directory)
    states: dict[str, Mapping[str, Tensor]] = {WEIGHTS_FILE: model.state_dict()}
    if raw_state is not None:
        assert raw_state.keys() == model.state_dict().keys(), "raw and averaged weights have different names"
        states[RAW_WEIGHTS_FILE] = raw_state
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        staging.chmod(0o755)
        try:
            for name, state in states.items():
                save_file({key: value.detach().cpu().clone() for key, value in state.items()}, staging / name)
                (staging / name).chmod(0o644)  # safetensors leaves it to its owner alone
            config = CheckpointConfig(
                format_version=FORMAT_VERSION,
                foundation_version=version("foundation"),
                model=model.config,
                scaling_provenance=model.scaling.provenance,
                units={**INTERNAL_UNITS, **{name: PROPERTIES[name].unit for name in sorted(model.properties)}},
                weights={name: _sha256(staging / name) for name in states},
            )
            text = json.dumps(to_dict(config), indent=2, ensure_ascii=False, allow_nan=False)
            (staging / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
            write_card(model, staging / CARD_FILE, info=card_info)
            _replace_directory(directory, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise InputError(f"model '{directory}': cannot be written: {error}") from error


def load(model: str | Path, *, device: str | torch.device = "cpu", raw: bool = False) -> FoundationModel:
    """Load a model by name, ready to predict.

    Args:
        model: A run or model directory, a URL, or a hub id `org/name@revision`.
        device: Where its weights go.
        raw: Take the weights without averaging; they are the same where training did not average.

    Raises:
        InputError: There is no model, its files are damaged, or a newer foundation wrote it.
    """
    return load_directory(resolve_model(model), device=device, raw=raw)


def load_directory(directory: Path, *, device: str | torch.device = "cpu", raw: bool = False) -> FoundationModel:
    """Load a model directory; see `load`."""
    where = str(directory / CONFIG_FILE)
    target = usable_device(device)
    document = _read_json(directory / CONFIG_FILE)
    stored = document.get("weights")
    if not isinstance(stored, dict) or not stored.keys() >= {WEIGHTS_FILE}:
        raise InputError(f"{where}: weights: got {stored!r}; allowed: the SHA-256 of {WEIGHTS_FILE}")
    name = RAW_WEIGHTS_FILE if raw and RAW_WEIGHTS_FILE in stored else WEIGHTS_FILE
    tensors = _read_tensors(directory / name, checksum=str(stored[name]))
    document, tensors = migrate(document, tensors, where=where)
    config = validate(CheckpointConfig, document, where=where)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        model = FoundationModel(config.model)
    _check_tensors(model, tensors, where=str(directory / name))
    model.load_state_dict(tensors)
    model.scaling.provenance = dict(config.scaling_provenance)
    return model.to(target).eval()


def _check_tensors(model: FoundationModel, tensors: Mapping[str, Tensor], *, where: str) -> None:
    expected = model.state_dict()
    problems = [f"{where}: tensor '{name}' is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{where}: tensor '{name}' is not part of the model" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        got, wanted = tensors[name], expected[name]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            problems.append(
                f"{where}: tensor '{name}': got {tuple(got.shape)} {got.dtype}; "
                f"allowed: {tuple(wanted.shape)} {wanted.dtype}"
            )
    if problems:
        raise InputError(sorted(problems))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: got {type(document).__name__}; allowed: an object")
    return document


def _read_tensors(path: Path, *, checksum: str) -> dict[str, Tensor]:
    try:
        found = _sha256(path)
        if found != checksum:
            raise InputError(f"{path}: damaged or replaced: SHA-256 {found[:12]}…, config.json says {checksum[:12]}…")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace_directory(directory: Path, staging: Path) -> None:
    """Put `staging` where `directory` is or will be; the old one leaves the name for an instant only."""
    if not directory.exists():
        staging.rename(directory)
        return
    old = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-old-"))
    directory.rename(old / "model")
    staging.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
