"""D3(BJ) through the library: documented numbers, consistent derivatives, slabs and wires, no steps."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from foundation.config import validate
from foundation.data.graph import AtomGraph
from foundation.errors import InputError
from foundation.physics import D3Dispersion, DispersionConfig, DispersionResult

pytest.importorskip("dftd3.interface", reason="the extra 'dispersion' is not installed")

Graph = Callable[..., AtomGraph]
Found = Callable[..., DispersionResult]


@pytest.fixture
def found(graph_of: Graph) -> Found:
    def evaluate(*structures: Atoms, functional: str = "pbe") -> DispersionResult:
        return D3Dispersion(DispersionConfig(functional=functional))(graph_of(*structures))

    return evaluate


def triclinic() -> Atoms:
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    crystal.set_cell(crystal.cell.array @ [[1, 0.1, 0.05], [0.02, 1.1, 0], [0.03, 0, 0.9]], True)
    crystal.rattle(0.1, seed=1)
    return crystal


def slab(vacuum: float = 8.0) -> Atoms:
    atoms = fcc111("Cu", (1, 2, 3), vacuum=vacuum)
    atoms.rattle(0.05, seed=2)
    return atoms


def water() -> Atoms:
    atoms = Atoms(cell=np.diag([7.0, 5.0, 6.0]), pbc=True)
    for place in ([0.0, 0.3, 0.1], [2.9, 0.5, 1.4], [1.2, 2.8, 3.1]):
        one = molecule("H2O")
        one.positions += place
        atoms += one
    return atoms


STRUCTURES = {
    "molecule": molecule("CH3CONH2"),
    "triclinic crystal": triclinic(),
    "slab": slab(),
    "water": water(),
}


def test_energies_and_forces_are_those_of_the_librarys_documentation(found: Found) -> None:
    water = found(molecule("H2O"))
    assert water.energy.item() == pytest.approx(-0.009781920198843976, rel=1e-6)
    expected = [[0, 0, 0.00009572], [0, -0.00004060, -0.00004786], [0, 0.00004060, -0.00004786]]
    np.testing.assert_allclose(water.forces, expected, atol=1e-8)
    assert found(molecule("H2O"), functional="TPSS").energy.item() == pytest.approx(-0.011441640787279111, rel=1e-6)
    assert found(molecule("C60")).energy.item() == pytest.approx(-4.974195589771621, rel=1e-6)


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_forces_and_stress_are_derivatives_of_the_energy(found: Found, name: str) -> None:
    atoms, step, rng = STRUCTURES[name], 1e-3, np.random.default_rng(0)
    result = found(atoms)
    direction = rng.normal(size=atoms.positions.shape)

    def moved(scale: float) -> Atoms:
        other = atoms.copy()
        other.positions += scale * direction
        return other

    slope = float(found(moved(step)).energy - found(moved(-step)).energy) / (2 * step)
    assert slope == pytest.approx(-float((result.forces.numpy() * direction).sum()), abs=1e-6)
    assert abs(slope) > 1e-3
    if not atoms.pbc.all():
        assert result.stress.isnan().all()
        return
    strain = rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def strained(scale: float) -> Atoms:
        other = atoms.copy()
        other.set_cell(atoms.cell.array @ (np.eye(3) + scale * strain), scale_atoms=True)
        return other

    slope = float(found(strained(step)).energy - found(strained(-step)).energy) / (2 * step) / atoms.get_volume()
    assert slope == pytest.approx(float((result.stress[0].numpy() * strain).sum()), abs=1e-6)
    assert float(result.stress[0].trace()) > 0, "dispersion pulls a crystal together"


def test_what_does_not_repeat_is_not_folded_into_its_cell(found: Found) -> None:
    """However the cell of a slab or a wire is drawn, the result is that of a box with vacuum all round."""
    vast = slab(vacuum=60.0)
    vast.pbc = True
    expected = found(vast)
    drawn = slab()
    for vector in ([0.0, 0.0, 0.0], [3.0, 2.0, 4.0], [0.0, 0.0, -30.0]):
        drawn.set_cell([*drawn.cell.array[:2], vector])
        drawn.positions[:, 2] += 7.3
        result = found(drawn)
        torch.testing.assert_close(result.energy, expected.energy, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(result.forces, expected.forces, rtol=0.0, atol=1e-9)
    wire = molecule("H2O")
    wire.set_cell(np.diag([60.0, 4.0, 60.0]))
    wire.pbc = True
    expected = found(wire)
    wire.set_cell(np.diag([0.0, 4.0, 0.0]))
    wire.pbc = [False, True, False]
    torch.testing.assert_close(found(wire).energy, expected.energy, rtol=1e-9, atol=0.0)


def test_batching_permutation_translation_and_repeated_cells_agree(found: Found) -> None:
    structures = list(STRUCTURES.values())
    batch, single = found(*structures), [found(atoms) for atoms in structures]
    torch.testing.assert_close(batch.energy, torch.cat([one.energy for one in single]), rtol=0.0, atol=0.0)
    torch.testing.assert_close(batch.forces, torch.cat([one.forces for one in single]), rtol=0.0, atol=0.0)
    torch.testing.assert_close(batch.stress[1], single[1].stress[0], rtol=0.0, atol=0.0)
    crystal = STRUCTURES["triclinic crystal"]
    order = np.random.default_rng(0).permutation(len(crystal))
    shuffled = crystal[order]
    shuffled.positions += 2.0 * crystal.cell[0] - crystal.cell[2] + 0.3
    result = found(shuffled)
    torch.testing.assert_close(result.energy, single[1].energy, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(result.forces, single[1].forces[order], rtol=0.0, atol=1e-10)
    doubled = found(crystal * (1, 2, 1))
    torch.testing.assert_close(doubled.energy, 2 * single[1].energy, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(doubled.stress, single[1].stress, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "step"), [("triclinic crystal", 1e-11), ("water", 1e-7)])
def test_energy_has_no_step_while_a_cell_is_scaled(found: Found, name: str, step: float) -> None:
    """Fourth differences of a smooth curve on a fine grid are rounding; a step shows in them three times as large.

    In water the counts of neighbours matter, which the library does not fade.
    """
    crystal = STRUCTURES[name]
    cells = []
    for scale in np.linspace(0.998, 1.002, 121):
        cells.append(crystal.copy())
        cells[-1].set_cell(crystal.cell.array * scale, scale_atoms=True)
    energies = found(*cells).energy.numpy()
    assert np.ptp(energies) > 1e-3
    assert np.abs(np.diff(energies, 4)).max() < 3 * step


def test_it_can_be_copied_and_has_nothing_to_train_or_store(graph_of: Graph) -> None:
    graph = graph_of(molecule("H2O"))
    term = D3Dispersion(DispersionConfig(functional="pbe"))
    assert copy.deepcopy(term)(graph).energy == term(graph).energy
    assert not term.state_dict()
    graph.positions.requires_grad_(True)
    assert not term(graph).forces.requires_grad


def test_bad_input_is_refused(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"got 'pbee'; nearest: 'pbe'; allowed: .*r2scan"):
        found(molecule("H2O"), functional="pbee")
    with pytest.raises(InputError, match=r"atomic numbers \[104, 118\]; allowed: 1 to 103"):
        found(molecule("H2O"), Atoms(numbers=[118, 104], positions=[[0, 0, 0], [0, 0, 3.0]]))
    with pytest.raises(InputError, match="cutoff"):
        validate(DispersionConfig, {"functional": "pbe", "cutoff": 3.0}, where="dispersion")
    monkeypatch.setitem(sys.modules, "dftd3.interface", None)
    with pytest.raises(InputError, match=r"'dftd3' cannot be imported .*pip install dftd3"):
        D3Dispersion(DispersionConfig(functional="pbe"))
