"""When kernels for CPUs are compared with torch's operators, and what that must not depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from foundation.nn import bilinear, native, neighbor_sum, sparse_map, splines

STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "operations counted": lambda: FlopCounterMode(display=False),
    "tensors without numbers": FakeTensorMode,
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("module", [bilinear, neighbor_sum, sparse_map, splines], ids=lambda one: one.__name__)
def test_a_kernel_is_found_whatever_the_first_to_ask_is_about(
    module: ModuleType, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not module.has_kernel():
        pytest.skip("no kernels on this machine")
    kernel = native.CheckedKernel(
        Path(module.__file__ or "").with_suffix(".cpp"),
        largest_error=module._largest_error,
        allowed=module.LARGEST_ERROR,
    )
    with caplog.at_level(logging.WARNING), STATES[state]():
        assert kernel.found() is not None
    assert not caplog.records
