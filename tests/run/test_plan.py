"""What is measured before training."""

from __future__ import annotations

from foundation.run.plan import _first_with_each_element


def test_each_element_is_in_the_sample_that_scales_are_measured_on() -> None:
    formulas = ["CH4", "C2H6", "ClH", "C2H6O", "H2O", "BrCl"]
    assert _first_with_each_element(formulas) == [0, 2, 3, 5]
