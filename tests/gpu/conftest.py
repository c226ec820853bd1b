"""Everything here runs on a CUDA device, or is skipped where there is none."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The first CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device here")
    return torch.device("cuda", 0)
