"""C++ kernels for CPUs: built by the machine's own compiler when they are first needed, and kept.

A file of the cache belongs to one source, one compiler and one kind of processor, so that machines may share the cache.
Without a compiler everything goes through torch's operators instead, slower and with the same results.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from foundation.resources import cache_dir

__all__ = ["SWITCH", "CheckedKernel", "Kernel", "build"]

SWITCH = "FOUNDATION_KERNELS"
"""Variable: `off`, or the folder in which kernels are kept."""
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
LONGEST_BUILD_S = 300.0

logger = logging.getLogger(__name__)


class Kernel:
    """The functions `NAME_float` and `NAME_double` of a library; NAME is its source's."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._functions: dict[torch.dtype, Any] = {
            torch.float32: getattr(library, f"{name}_float"),
            torch.float64: getattr(library, f"{name}_double"),
        }
        for function in self._functions.values():
            function.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
            function.restype = ctypes.c_int

    def __call__(
        self, dtype: torch.dtype, sizes: Sequence[int], arrays: Sequence[Tensor | None], operation: int
    ) -> None:
        """Run one operation.

        Args:
            dtype: Of all arrays of numbers.
            sizes: What the source says.
            arrays: Dense and on the CPU, outputs too; None where the operation does not use one.
            operation: Its number.

        Raises:
            RuntimeError: The kernel does not know these sizes.
        """
        pointers = (ctypes.c_void_p * len(arrays))(*(None if one is None else one.data_ptr() for one in arrays))
        if self._functions[dtype]((ctypes.c_int64 * len(sizes))(*sizes), pointers, operation) != 0:
            raise RuntimeError(f"a kernel does not know the sizes {list(sizes)}")


class CheckedKernel:
    """A kernel that is built, and compared with torch's operators, when it is first asked for.

    Args:
        source: As for `build`.
        largest_error: Of the kernel's results and derivatives against those of torch's operators, relative.
        allowed: The largest that is allowed, for each precision that the kernel takes.
    """

    def __init__(
        self,
        source: Path,
        *,
        largest_error: Callable[[Kernel, torch.dtype], float],
        allowed: Mapping[torch.dtype, float],
    ) -> None:
        self._source = source
        self._largest_error = largest_error
        self._allowed = allowed
        self.found = functools.cache(self._find)
        """The kernel; None where it cannot be built or differs, which is said."""

    def takes(self, *tensors: Tensor) -> bool:
        """Whether tensors are where the kernel works and of one precision that it has; not whether it was built."""
        dtype = tensors[0].dtype
        return dtype in self._allowed and all(one.device.type == "cpu" and one.dtype == dtype for one in tensors)

    def built(self) -> Kernel:
        """The kernel, where operators of it are in use."""
        kernel = self.found()
        assert kernel is not None, "an operator of the kernel without the kernel"
        return kernel

    def _find(self) -> Kernel | None:
        library = build(self._source)
        if library is None:
            return None
        kernel = Kernel(library, self._source.stem)
        # In a thread of its own, as the first to ask may be under autocast, in inference mode or counting operations:
        # all of that belongs to a thread, and would change what torch's operators give here.
        with ThreadPoolExecutor(max_workers=1) as fresh:
            errors = list(fresh.map(functools.partial(self._largest_error, kernel), self._allowed))
        for (dtype, limit), error in zip(self._allowed.items(), errors, strict=True):
            if not error <= limit:
                _explain(
                    f"{self._source.name} differs from torch's operators by {error:.1e} in {dtype}, "
                    f"allowed: {limit:.0e}"
                )
                return None
        return kernel


def build(source: Path) -> ctypes.CDLL | None:
    """Load a kernel, built before if it was not yet.

    Args:
        source: A C++ file that needs nothing but the standard library.

    Returns:
        None where kernels are switched off or cannot be built, which is said once with the reason.
    """
    setting = os.environ.get(SWITCH, "")
    if setting.lower() in {"off", "0"}:
        return None
    compiler = _compiler()
    if compiler is None:
        _explain(f"no C++ compiler (looked for CXX, {', '.join(COMPILERS)})")
        return None
    folder = Path(setting).expanduser() if setting else cache_dir() / "kernels"
    try:
        target = folder / f"{source.stem}-{_fingerprint(source, compiler)}.so"
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_suffix(".lock"), timeout=LONGEST_BUILD_S):
                if not target.is_file():
                    _compile(source, compiler, target)
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        _explain(f"{shlex.join(map(str, error.cmd))} failed: {error.stderr.strip()[:500]}")
    except (OSError, Timeout, subprocess.TimeoutExpired) as error:
        _explain(str(error))
    return None


@functools.cache
def _explain(reason: str) -> None:
    """Once for each reason, not for each kernel."""
    logger.warning(
        "the fast kernels for CPUs are not used: %s; torch's operators take their place, more slowly", reason
    )


def _compiler() -> list[str] | None:
    stated = shlex.split(os.environ.get("CXX", ""))
    found = next((path for name in ([stated[0]] if stated else COMPILERS) if (path := shutil.which(name))), None)
    return None if found is None else [found, *stated[1:]]


def _compile(source: Path, compiler: list[str], target: Path) -> None:
    """Whole or not at all: the library gets its name when it is finished."""
    logger.info("building %s for this processor; once, half a minute", source.name)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [*compiler, *FLAGS, str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=LONGEST_BUILD_S)
        made.replace(target)


def _fingerprint(source: Path, compiler: list[str]) -> str:
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True).stdout
    parts = [source.read_text(encoding="utf-8"), *compiler, version, *FLAGS, _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("model name", "model", "stepping", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in kept}))
