"""Reference energies, scales and gains measured on data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from foundation.backbones import EquivariantConfig
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.scaling import complete_references, fit_scaling

TRUE_ENERGIES = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2041.0, 16: -10830.0, 35: -70045.0}


def structure(numbers: list[int], *, energy: float | None, seed: int = 0, level: int = 0) -> AtomGraph:
    positions = np.random.default_rng(seed).normal(size=(len(numbers), 3)) * 3 + 5 * np.arange(len(numbers))[:, None]
    graph = build_graph(
        positions=positions,
        atomic_numbers=numbers,
        total_charge=0.0,
        spin_multiplicity=1,
        targets={} if energy is None else {"energy": np.array(energy)},
        level_index=level,
    )
    return with_neighbors(graph, 5.0)


def labelled_structures(rare: int, *, share: float, count: int = 300) -> list[AtomGraph]:
    rng = np.random.default_rng(1)
    graphs = []
    for index in range(count):
        numbers = rng.choice([1, 1, 6, 7, 8], size=rng.integers(5, 20)).tolist()
        if index < max(1, round(share * count)):
            numbers.append(rare)
        energy = sum(TRUE_ENERGIES[number] for number in numbers) + rng.normal(scale=0.1)
        graphs.append(structure(numbers, energy=float(energy), seed=index))
    return graphs


@pytest.mark.parametrize(("rare", "share"), [(16, 0.05), (35, 0.01)])
def test_reference_energies_of_rare_elements_are_not_biased(rare: int, share: float):
    table = fit_scaling(
        labelled_structures(rare, share=share), properties=frozenset({"energy"}), levels=("a",), isolated_atoms={}
    )
    for number in (1, 6, 7, 8, rare):
        assert abs(float(table.references["energy"][0, number]) - TRUE_ENERGIES[number]) < 0.5


def test_isolated_atoms_are_taken_and_the_rest_is_fitted_against_them():
    isolated = {"a": {number: TRUE_ENERGIES[number] for number in (1, 6, 7, 8)}}
    graphs = [*labelled_structures(16, share=0.05), structure([1, 35], energy=None)]
    table = fit_scaling(graphs, properties=frozenset({"energy"}), levels=("a",), isolated_atoms=isolated)
    references = table.references["energy"][0]
    assert float(references[6]) == TRUE_ENERGIES[6]
    assert abs(float(references[16]) - TRUE_ENERGIES[16]) < 0.5
    assert torch.isnan(references[35]), "an element without any label has no reference energy"
    assert "isolated" in table.provenance["a"]
    assert "16" in table.provenance["a"]


def test_levels_of_theory_have_references_of_their_own():
    low = [structure([1, 8], energy=-10.0, seed=i) for i in range(4)]
    high = [structure([1, 8], energy=-20.0, seed=i, level=1) for i in range(4)]
    table = fit_scaling([*low, *high], properties=frozenset({"energy"}), levels=("a", "b"), isolated_atoms={})
    sums = table.references["energy"][:, [1, 8]].sum(1)
    torch.testing.assert_close(sums, torch.tensor([-10.0, -20.0], dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_an_ideal_crystal_does_not_blow_up_what_its_symmetry_forbids():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=EquivariantConfig(channels=8, pseudo_channels=4),
        heads={"energy": default_head("energy")},
        elements=(47,),
        levels=("a",),
    )
    model = FoundationModel(config)
    silver = bulk("Ag", cubic=True)

    def graph(displacement: float) -> AtomGraph:
        noise = np.random.default_rng(0).normal(scale=1.0, size=silver.positions.shape) * displacement
        built = build_graph(
            positions=silver.positions + noise,
            atomic_numbers=silver.numbers,
            total_charge=0.0,
            spin_multiplicity=1,
            cell=silver.cell.array,
            pbc=True,
        )
        return collate([with_neighbors(built, 5.0)])

    ideal = graph(0.0)
    table = fit_scaling([ideal], properties=frozenset({"energy"}), levels=("a",), isolated_atoms={})
    model.prepare(table, ideal)
    still, moved, shaken = (model.backbone(graph(size)).natural.detach() for size in (0.0, 1e-4, 0.05))
    assert (still - moved).abs().max() < 0.05
    assert shaken.square().mean().sqrt() < 10


def test_born_charges_are_defined_where_the_dipole_is_not():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=EquivariantConfig(channels=8, pseudo_channels=4),
        heads={"charges": default_head("dipole")},
        elements=(1, 8, 47),
        levels=("a",),
    )
    silver, water = bulk("Ag", cubic=True), molecule("H2O")
    graphs = [
        with_neighbors(
            build_graph(
                positions=atoms.positions,
                atomic_numbers=atoms.numbers,
                total_charge=0.0,
                spin_multiplicity=1,
                cell=atoms.cell.array if atoms.pbc.any() else None,
                pbc=atoms.pbc,
            ),
            5.0,
        )
        for atoms in (silver, water)
    ]
    found = FoundationModel(config)(collate(graphs), properties=["born_charges", "dipole"])
    assert found["dipole"].isnan().all(dim=1).tolist() == [True, False]
    assert found["born_charges"].isfinite().all()


def test_elements_add_nothing_to_what_charges_give_themselves(make_model):
    """A polarizability from the response of charges needs no labels, and no constants of elements."""
    head = {"kind": "charges", "model": {"kind": "qeq"}, "polarizability": True, "quadrupole": True}
    model = make_model({"energy": {"kind": "energy"}, "charges": head}, electrostatics=True)
    fresh = FoundationModel(model.config)
    fresh.scaling.reference_energies[:, [1, 8]] = 0.0
    found = fresh.predict("O").values
    assert {"polarizability", "quadrupole", "dipole"} <= found.keys()
    assert np.linalg.eigvalsh(found["polarizability"]).min() > 0.05, "e²·Å²/eV; that of water is 0.1"
    water = molecule("H2O")
    labelled = build_graph(
        positions=water.positions,
        atomic_numbers=water.numbers,
        total_charge=0.0,
        spin_multiplicity=1,
        targets={"polarizability": 0.1 * np.eye(3)},
    )
    graphs = [with_neighbors(labelled, 4.0)]
    table = fit_scaling(graphs, properties=fresh.properties, levels=fresh.config.levels, isolated_atoms={})
    assert table.references["polarizability"].nan_to_num().abs().max() > 0.01
    fresh.scaling.set_table(table)
    assert fresh.scaling.references("polarizability").abs().max() == 0


def test_an_element_that_joins_known_references_is_fitted_beside_them():
    graphs = [
        structure([6, 1, 1, 1, 35], energy=TRUE_ENERGIES[6] - 3 * 13.6 + TRUE_ENERGIES[35], seed=i) for i in range(4)
    ]
    graphs += [structure([6, 1, 1, 1, 1], energy=TRUE_ENERGIES[6] - 4 * 13.6 + 2.0, seed=i) for i in range(40)]
    graphs += [structure([8, 1], energy=5.0, level=1)]
    known = torch.full((2, 119), torch.nan, dtype=torch.float64)
    known[0, [1, 6]] = torch.tensor([TRUE_ENERGIES[1], TRUE_ENERGIES[6]], dtype=torch.float64)
    known[1, [1, 8]] = 1.0
    table, fitted = complete_references(graphs, "energy", known)
    assert fitted == {0: (35,)}
    assert abs(float(table[0, 35]) - TRUE_ENERGIES[35]) < 1e-3, "labels without it say nothing about it"
    assert torch.equal(table[0, [1, 6]], known[0, [1, 6]]), "what was known stays"
    assert torch.equal(table[1, [1, 8]], known[1, [1, 8]])
    assert bool(table[0, 7].isnan()), "no label holds it"


@pytest.mark.parametrize(("formulas", "open_values"), [(([1, 8],), 1), (([1, 8], [1, 1, 8]), 0), (([1, 6, 8],), 2)])
def test_it_is_said_where_compositions_do_not_tell_elements_apart(formulas: tuple[list[int], ...], open_values: int):
    graphs = [structure(numbers, energy=-10.0, seed=i) for numbers in formulas for i in range(3)]
    table = fit_scaling(graphs, properties=frozenset({"energy"}), levels=("a",), isolated_atoms={})
    assert (f"leave {open_values} of" in table.provenance["a"]) == (open_values > 0)
