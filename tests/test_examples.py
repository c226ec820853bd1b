"""The examples of the documentation compute what they say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.build import molecule

from foundation.calculators.ase import FoundationCalculator
from foundation.model import FoundationModel


@pytest.fixture(scope="module")
def infrared(repository: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location("infrared", repository / "docs" / "examples" / "infrared.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_spectrum_of_dipoles_peaks_where_they_oscillate(infrared: ModuleType) -> None:
    times = np.arange(0, 4000, 0.5)
    slow, fast = (np.cos(2 * np.pi * wavenumber / infrared.INVERSE_CM * times) for wavenumber in (1000.0, 3000.0))
    dipoles = np.stack([3 * slow, fast, np.ones_like(times)], axis=1)
    wavenumbers, power = infrared.spectrum(dipoles, step_fs=0.5, resolution=15.0)
    for place in (1000.0, 3000.0):
        near = np.abs(wavenumbers - place) < 200
        assert abs(wavenumbers[near][power[near].argmax()] - place) < 5
    # Of dP/dt: three times the amplitude at a third of the frequency has the same power.
    heights = [power[np.abs(wavenumbers - place) < 20].max() for place in (1000.0, 3000.0)]
    assert heights[0] == pytest.approx(heights[1], rel=0.05)


def test_harmonic_lines_share_out_the_intensity_of_born_charges(
    infrared: ModuleType, make_model: Callable[..., FoundationModel]
) -> None:
    model = make_model({"energy": {"kind": "energy"}, "charges": {"kind": "charges"}})
    atoms = molecule("H2O")
    atoms.calc = FoundationCalculator(model, charge=0, spin=1, dtype="float64")
    wavenumbers, intensities = infrared.harmonic_lines(model, atoms, charge=0, spin=1)
    assert wavenumbers.shape == intensities.shape == (9,)
    born = model.predict(atoms, properties=["born_charges"], charge=0, spin=1).values["born_charges"]
    expected = (np.square(born).sum(axis=(1, 2)) / atoms.get_masses()).sum()
    assert intensities.sum() == pytest.approx(expected, rel=1e-6)
