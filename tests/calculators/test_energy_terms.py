"""Terms that predictions and the energy add, through the ASE calculator: forces and stress stay derivatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress

from foundation.calculators.ase import FoundationCalculator
from foundation.errors import InputError
from foundation.model import FoundationModel

MakeModel = Callable[..., FoundationModel]
HEADS = {"energy": {"kind": "energy"}, "charges": {"kind": "charges"}}
D3 = {"kind": "d3bj", "functional": "pbe"}


def moved(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=1)
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    return atoms


@pytest.mark.parametrize(
    ("terms", "step", "tolerance"),
    [
        ({"electrostatics": True, "repulsion": {"kind": "zbl"}}, 1e-4, 1e-5),
        ({"electrostatics": {"kind": "coulomb", "screening_length": 3.0}}, 1e-4, 1e-5),
        # Neighbours that D3 counts end at a distance: shells of images step by 1e-7 eV, which wide differences drown.
        ({"electrostatics": True, "dispersion": D3}, 3e-3, 1e-2),
    ],
    ids=["repulsion", "screened", "dispersion"],
)
def test_forces_and_stress_are_derivatives_of_the_energy(
    make_model: MakeModel, terms: dict[str, object], step: float, tolerance: float
) -> None:
    if "dispersion" in terms:
        pytest.importorskip("dftd3", reason="the optional package dftd3 is not installed")
    model = make_model(HEADS, elements=(1, 6, 8, 14), **terms)
    atoms = moved(bulk("Si"))
    atoms.calc = FoundationCalculator(model, dtype="float64")
    forces, stress, volume = atoms.get_forces(), atoms.get_stress(voigt=False), atoms.get_volume()
    random = np.random.default_rng(0)
    direction, strain = random.normal(size=(2, 3)), random.normal(size=(3, 3))
    strain = (strain + strain.T) / 2

    def energy(shift: float, stretch: float) -> float:
        changed = atoms.copy()
        changed.positions += shift * direction
        changed.set_cell(atoms.cell.array @ (np.eye(3) + stretch * strain), scale_atoms=True)
        changed.calc = atoms.calc
        return changed.get_potential_energy()

    slope = (energy(step, 0) - energy(-step, 0)) / (2 * step)
    assert -slope == pytest.approx((forces * direction).sum(), rel=tolerance, abs=1e-6)
    slope = (energy(0, step) - energy(0, -step)) / (2 * step)
    assert slope / volume == pytest.approx((stress * strain).sum(), rel=tolerance, abs=1e-7)
    assert voigt_6_to_full_3x3_stress(atoms.get_stress()) == pytest.approx(stress)


def test_dispersion_is_added_to_predictions_and_not_to_what_labels_are_compared_with(make_model: MakeModel) -> None:
    pytest.importorskip("dftd3", reason="the optional package dftd3 is not installed")
    plain, dispersive = make_model(HEADS), make_model(HEADS, dispersion=D3)
    atoms = moved(molecule("C6H6"))
    without, included = (model.predict(atoms, properties=["energy", "dipole"]).values for model in (plain, dispersive))  # type: ignore[union-attr]
    assert -1.0 < included["energy"] - without["energy"] < -0.01, "eV, of benzene"
    assert included["dipole"] == pytest.approx(without["dipole"])


def test_a_field_needs_charges_that_feel_it(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="no electrostatics for a field to act on"):
        FoundationCalculator(make_model(HEADS), electric_field=(0.0, 0.0, 0.1))
    model = make_model(HEADS, electrostatics=True)
    with pytest.raises(InputError, match="allowed: three finite numbers"):
        FoundationCalculator(model, electric_field=(0.0, 0.1))
    atoms = moved(molecule("H2O"))
    energies = []
    for field in ((0.0, 0.0, 0.0), (0.0, 0.0, 1e-3)):
        atoms.calc = FoundationCalculator(model, electric_field=field, dtype="float64")
        energies.append(atoms.get_potential_energy())
    assert energies[1] - energies[0] == pytest.approx(-1e-3 * atoms.get_dipole_moment()[2], rel=1e-6)
