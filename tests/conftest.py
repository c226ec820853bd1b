"""What every test shares: one thread, no network, checked array shapes, and the folder of real data."""

from __future__ import annotations

import os

# Before torch and the Hugging Face libraries are imported, by this process or by a command that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FOUNDATION_DATA", REPOSITORY.parent / "shared" / "data"))
ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# FOUNDATION_CHECK_SHAPES=0 turns the check of every annotated shape and type off, to see what production sees.
if os.environ.get("FOUNDATION_CHECK_SHAPES", "1") != "0":
    jaxtyping.install_import_hook("foundation", "beartype.beartype")

hypothesis.settings.register_profile("foundation", deadline=None, database=None, derandomize=ON_CI, max_examples=50)
hypothesis.settings.load_profile("foundation")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data sets; skips where it is absent (FOUNDATION_DATA names another place)."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found: {SHARED_DATA} is not a folder; set FOUNDATION_DATA to where it lies")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of prepared data and fetched models that belongs to this test process, not to the user."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDATION_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """On CI a test that skips for want of data fails where the data lie: else nobody would notice that it never ran."""
    report = yield
    if report.skipped and ON_CI and SHARED_DATA.is_dir() and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "data" in reason.lower():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped ({reason}), but the real data are at {SHARED_DATA}"
    return report
