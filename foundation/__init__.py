"""One model of molecules and materials: pretrained once, fine-tuned by recipe, used everywhere.

Only re-exports. What needs torch is imported on first use, so that `foundation --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from foundation.errors import InputError

if TYPE_CHECKING:
    from foundation.checkpoint import load
    from foundation.model import FoundationModel

__version__ = version("foundation")
__all__ = ["FoundationModel", "InputError", "__version__", "load"]

_HOMES = {"load": "foundation.checkpoint", "FoundationModel": "foundation.model"}


def __getattr__(name: str) -> object:
    """Import a heavy name from its module when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'foundation' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
