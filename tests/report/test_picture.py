"""The picture for a README: small, not blank, and refused where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foundation.errors import InputError
from foundation.report import write_picture
from foundation.report.picture import MAX_BYTES


def test_a_finished_run_gives_a_small_picture_with_something_on_it(finished_run: Path, tmp_path: Path) -> None:
    path = write_picture(finished_run, tmp_path / "picture.png")
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 800
    assert 0.02 < (pixels.min(axis=2) < 250).mean() < 0.5


def test_a_run_without_values_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 0\n", encoding="utf-8")
    with pytest.raises(InputError, match="nothing to draw yet"):
        write_picture(tmp_path, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
