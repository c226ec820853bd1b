"""Threads and the allocator: the recipe wins over the environment, and the switch leaves glibc alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from foundation.threads import ALLOCATOR_SWITCH, available_cores, set_threads, tune_allocator


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_recipes_threads_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads(2) == torch.get_num_threads() == 2
    assert set_threads(None) == torch.get_num_threads() == 1


def test_without_either_every_usable_core_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert set_threads(None) == torch.get_num_threads() == available_cores() >= 1


def test_the_switch_leaves_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOCATOR_SWITCH, "system")
    assert tune_allocator() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is tuned on glibc only")
def test_a_tuned_process_keeps_what_it_freed() -> None:
    """In a process of its own: 256 MB are freed, and without tuning the system would have them back."""
    code = """
import resource, sys
from foundation.threads import tune_allocator
tune_allocator()
block = bytearray(256 << 20)
del block
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * resource.getpagesize() >> 20)
"""
    kept = {}
    for switch in ("", "system"):
        environment = {**os.environ, ALLOCATOR_SWITCH: switch}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        kept[switch] = int(result.stdout)
    assert kept[""] > 200
    assert kept["system"] < 100
