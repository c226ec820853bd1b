"""The ASE calculator: what ASE gets is what the model predicts, conservative, fresh, never with an assumed charge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from foundation.calculators.ase import FoundationCalculator
from foundation.checkpoint import CardInfo, load, save_model
from foundation.errors import InputError
from foundation.model import FoundationModel

MakeModel = Callable[..., FoundationModel]
HEADS = {"energy": {"kind": "energy"}, "charges": {"kind": "charges"}}


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> FoundationModel:
    return make_model(HEADS)


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    return atoms


def crystal() -> Atoms:
    """A triclinic cell smaller than the cutoff: atoms see their own images."""
    atoms = bulk("CO", "rocksalt", a=3.8)
    atoms.set_cell(atoms.cell.array + 0.1 * np.arange(9).reshape(3, 3) / 9, scale_atoms=True)
    atoms.rattle(0.05, seed=2)
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    return atoms


def test_ase_gets_what_the_model_predicts(model: FoundationModel) -> None:
    atoms = ethanol()
    expected = model.predict(atoms).values
    atoms.calc = FoundationCalculator(model)
    assert atoms.get_potential_energy() == pytest.approx(float(expected["energy"]), rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    found = {
        "forces": atoms.get_forces(),
        "dipole": atoms.get_dipole_moment(),
        "partial_charges": atoms.get_charges(),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_a_saved_model_by_name_gives_the_same(model: FoundationModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "run" / "model", card_info=CardInfo(title="test"))
    atoms, again = ethanol(), ethanol()
    atoms.calc, again.calc = FoundationCalculator(model), FoundationCalculator(str(tmp_path / "run"))
    assert atoms.get_potential_energy() == again.get_potential_energy()
    evaluated = load(tmp_path / "run").predict([ethanol(), ethanol()])[1].values
    np.testing.assert_allclose(evaluated["forces"], again.get_forces(), rtol=1e-5, atol=1e-5)


def test_one_call_serves_energy_and_forces(model: FoundationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calculator = FoundationCalculator(model)
    calls = []
    forward = calculator.model.forward
    monkeypatch.setattr(calculator.model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    atoms = ethanol()
    atoms.calc = calculator
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.get_dipole_moment()
    assert len(calls) == 1


@pytest.mark.parametrize("build", [ethanol, crystal])
def test_forces_are_the_negative_energy_gradient(model: FoundationModel, build: Callable[[], Atoms]) -> None:
    atoms = build()
    atoms.calc = FoundationCalculator(model, dtype="float64")
    forces = atoms.get_forces()
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 1])
    np.testing.assert_allclose(forces[:2], numerical, rtol=1e-5, atol=1e-5 * np.abs(forces).max())


def test_stress_has_ases_sign_unit_and_order(model: FoundationModel) -> None:
    atoms = crystal()
    atoms.calc = FoundationCalculator(model, dtype="float64")
    stress = atoms.get_stress()
    assert stress.shape == (6,)
    assert len(set(np.round(np.abs(stress) / np.abs(stress).max(), 6))) == 6  # an order could not hide
    numerical = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(stress, numerical, rtol=1e-4, atol=1e-5 * np.abs(stress).max())


def test_float64_is_finer_and_leaves_the_model_alone(model: FoundationModel) -> None:
    single, double = ethanol(), ethanol()
    single.calc, double.calc = FoundationCalculator(model), FoundationCalculator(model, dtype="float64")
    assert single.get_potential_energy() == pytest.approx(double.get_potential_energy(), abs=1e-3)
    assert single.get_potential_energy() != double.get_potential_energy()
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.info.update(total_charge=1, spin_multiplicity=2),
        lambda atoms: atoms.positions.__iadd__(np.linspace(0, 0.1, atoms.positions.size).reshape(-1, 3)),
        lambda atoms: atoms.numbers.__setitem__(0, 8),
    ],
)
def test_nothing_is_stale_after_a_change(model: FoundationModel, change: Callable[[Atoms], object]) -> None:
    atoms = ethanol()
    atoms.calc = FoundationCalculator(model)
    before = atoms.get_potential_energy()
    change(atoms)
    fresh = atoms.copy()
    fresh.calc = FoundationCalculator(model)
    assert atoms.get_potential_energy() == fresh.get_potential_energy()
    assert atoms.get_potential_energy() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda calculator: setattr(calculator, "charge", 2),
        lambda calculator: setattr(calculator, "spin", 3),
        lambda calculator: setattr(calculator, "level", "b"),
        lambda calculator: setattr(calculator, "electric_field", (0.0, 0.1, 0.0)),
        lambda calculator: calculator.electric_field.__setitem__(2, 0.1),
    ],
    ids=["charge", "spin", "level", "field", "field in place"],
)
def test_nothing_is_stale_after_a_setting_of_the_calculator_changed(
    make_model: MakeModel, change: Callable[[FoundationCalculator], object]
) -> None:
    several = make_model(HEADS, levels=("a", "b"), electrostatics=True)
    atoms = ethanol()
    atoms.info.clear()
    settings = {"level": "a", "charge": 0, "spin": 1, "electric_field": (0.0, 0.0, 0.0)}
    atoms.calc = FoundationCalculator(several, **settings)  # type: ignore[arg-type]
    before = atoms.get_potential_energy()
    change(atoms.calc)
    without_atoms = atoms.calc.get_property("energy")
    now = {name: getattr(atoms.calc, name) for name in settings}
    now["electric_field"] = tuple(now["electric_field"])
    fresh = atoms.copy()
    fresh.calc = FoundationCalculator(several, **now)
    assert atoms.get_potential_energy() == without_atoms == fresh.get_potential_energy() != before
    assert np.array_equal(atoms.get_dipole_moment(), fresh.get_dipole_moment())


def test_charge_and_spin_are_stated(model: FoundationModel) -> None:
    atoms = ethanol()
    atoms.info.clear()
    atoms.calc = FoundationCalculator(model)
    with pytest.raises(InputError, match="total charge is not stated"):
        atoms.get_potential_energy()
    atoms.calc = FoundationCalculator(model, charge=1, spin=2)
    assert atoms.get_charges().sum() == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_had_is_refused(model: FoundationModel, make_model: MakeModel) -> None:
    atoms = ethanol()
    atoms.calc = FoundationCalculator(model)
    with pytest.raises(InputError, match="periodic in three directions"):
        atoms.get_stress()
    atoms.numbers[0] = 16
    with pytest.raises(InputError, match="never seen S"):
        atoms.get_potential_energy()
    with pytest.raises(InputError, match="none of it is what ASE asks for"):
        FoundationCalculator(make_model({"noise": {"kind": "denoising"}}))
    with pytest.raises(InputError, match="not chosen"):
        FoundationCalculator(make_model(HEADS, levels=("a", "b")))


def test_only_what_the_model_predicts_is_offered(make_model: MakeModel) -> None:
    assert FoundationCalculator(make_model({"energy": {"kind": "energy"}})).implemented_properties == [
        "energy",
        "free_energy",
        "forces",
        "stress",
    ]
    assert FoundationCalculator(make_model({"charges": {"kind": "charges"}})).implemented_properties == [
        "dipole",
        "charges",
        "born_effective_charges",
    ]


def test_ase_gets_responses(make_model: MakeModel) -> None:
    charges = {"kind": "charges", "model": {"kind": "qeq"}, "polarizability": True, "quadrupole": True}
    model = make_model({"energy": {"kind": "energy"}, "charges": charges}, electrostatics=True)
    atoms = ethanol()
    atoms.calc = FoundationCalculator(model, dtype="float64")
    born = atoms.calc.get_property("born_effective_charges", atoms)
    polarizability = atoms.calc.get_property("polarizability", atoms)
    moments = []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.positions[2, 0] += sign * 1e-3
        moved.calc = atoms.calc
        moments.append(moved.get_dipole_moment())
    np.testing.assert_allclose(born[2, :, 0], (moments[0] - moments[1]) / 2e-3, atol=1e-5)
    induced = []
    for sign in (1.0, -1.0):
        atoms.calc = FoundationCalculator(model, dtype="float64", electric_field=(0.0, sign * 1e-3, 0.0))
        induced.append(atoms.get_dipole_moment())
    np.testing.assert_allclose(polarizability[:, 1], (induced[0] - induced[1]) / 2e-3, rtol=1e-5, atol=1e-6)
    assert atoms.calc.get_property("quadrupole", atoms).shape == (3, 3)


def test_levels_of_theory_differ(make_model: MakeModel) -> None:
    several = make_model(HEADS, levels=("a", "b"))
    energies = []
    for level in ("a", "b"):
        atoms = ethanol()
        atoms.calc = FoundationCalculator(several, level=level)
        energies.append(atoms.get_potential_energy())
    assert energies[0] != energies[1]


@pytest.fixture(scope="module")
def soft_model(make_model: MakeModel) -> FoundationModel:
    """Gentle enough for dynamics: a random network's forces are of the order of 1 eV/Å after this."""
    model = make_model(HEADS)
    atoms = ethanol()
    largest = np.abs(model.predict(atoms).values["forces"]).max()
    model.scaling.scale("energy").fill_(1.0 / float(largest))
    return model


def test_dynamics_conserve_energy(soft_model: FoundationModel) -> None:
    """The fluctuation of a Verlet run falls with the square of the time step, as it does only for exact forces."""
    fluctuations = []
    for time_step in (0.5, 0.25):
        atoms = ethanol()
        atoms.calc = FoundationCalculator(soft_model, dtype="float64")
        atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.3)
        dynamics = VelocityVerlet(atoms, timestep=time_step * units.fs)
        totals = []
        for _ in range(10):
            dynamics.run(round(1.0 / time_step))
            totals.append(atoms.get_total_energy())
        fluctuations.append(np.ptp(totals))
    assert fluctuations[0] / fluctuations[1] == pytest.approx(4, rel=0.35)


def test_relaxation_ends_at_small_forces(soft_model: FoundationModel) -> None:
    atoms = molecule("H2O")
    atoms.info.update(total_charge=0, spin_multiplicity=1)
    atoms.calc = FoundationCalculator(soft_model)
    start = atoms.get_potential_energy()
    BFGS(atoms, logfile=None, maxstep=0.05).run(fmax=0.05, steps=10)
    assert atoms.get_potential_energy() < start
