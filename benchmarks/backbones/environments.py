"""An environment of its own for each rival, in the cache, outside of the repository."""

from __future__ import annotations

import subprocess
import sys
import venv

from benchmarks.backbones.data import cache_root
from benchmarks.backbones.programs.base import rival_python
from benchmarks.backbones.programs.registry import RIVALS
from benchmarks.backbones.rows import FoundationModelRow, Rows
from foundation.errors import InputError

TORCH = "torch==2.13.0"


def set_up(rival: str, rows: Rows) -> None:
    """Make the environment of a rival with the version that its rows name, and torch at the version of all others.

    torch is installed first and named again with the rival: an installer that is free to choose another takes gigabytes
    of CUDA libraries.

    Args:
        rival: Key of `RIVALS`.
        rows: Name the version.

    Raises:
        InputError: No such rival, or its rows disagree on its version.
    """
    if rival not in RIVALS:
        raise InputError(f"setup: got '{rival}'; allowed: {', '.join(RIVALS)}")
    models = (model for model in rows.models.values() if not isinstance(model, FoundationModelRow))
    versions = {model.version for model in models if model.program == rival}
    if len(versions) != 1:
        raise InputError(f"{rival}: rows.yaml names versions {sorted(versions)}; allowed: one")
    package = f"{RIVALS[rival]}=={versions.pop()}"
    folder = cache_root() / rival
    if not (folder / "bin" / "python").is_file():
        venv.create(folder, with_pip=True)
    pip = [rival_python(rival), "-m", "pip", "install", "--disable-pip-version-check"]
    for packages in ([TORCH], [TORCH, package]):
        subprocess.run([*pip, *packages], check=True)
    print(f"{package} with {TORCH} in {folder}", file=sys.stderr)
