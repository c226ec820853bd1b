"""Long-range weights go wherever a model goes: averages, resumed runs, exports, fine-tuning and the ASE calculator."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import load_file

import foundation
from foundation.calculators.ase import FoundationCalculator
from foundation.cli import main
from foundation.electrostatics.charges.equilibration import Equilibration
from foundation.recipe import load_recipe
from foundation.run.plan import make_plan, prepare_data
from foundation.training.module import FoundationModule

VARIANTS = {
    "equilibrated": ["model.electrostatics={kind: coulomb, latent: true}", "model.charges={model: {kind: qeq}}"],
    "redistributed": ["model.electrostatics={kind: coulomb, latent: true}"],
    "feeding back": ["model.electrostatics={kind: coulomb, latent: true, feedback: {rounds: 1}}"],
}
SETTINGS = [
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "ema={decay: 0.9}",
    "report=false",
]
OF_CHARGES = ("heads.charges.model.", "feedback.")
FORK = multiprocessing.get_context("fork")

# Python 3.12 warns of forking where a library left a thread; the child uses none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def far_ions() -> Atoms:
    """Two hydroxide ions, out of each other's sight: beyond the cutoff of every layer together."""
    atoms = Atoms("OHOH", positions=[[0, 0, 0], [0, 0, 0.97], [14, 0, 0], [14, 0, 0.97]])
    atoms.info.update(total_charge=-2, spin_multiplicity=1)
    return atoms


def repulsion_beyond_sight(calculator: FoundationCalculator) -> float:
    """What pushes the ions apart, eV/Å: nothing but their charges."""
    atoms = far_ions()
    atoms.calc = calculator
    return float(atoms.get_forces()[2:, 0].sum())


def train_and_die(arguments: list[str]) -> None:
    """Train, and end as in a power cut in the second epoch."""

    def die(module: FoundationModule, *_: object) -> None:
        if module.trainer.global_step >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

    FoundationModule.on_train_batch_start = die  # type: ignore[method-assign]
    main(arguments)


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda name: name)
def long_range(request: pytest.FixtureRequest) -> list[str]:
    """Arguments of a training with one kind of charges."""
    return [*VARIANTS[request.param], *SETTINGS]


@pytest.fixture(scope="module")
def run(own_recipe: Path, long_range: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on energies and forces."""
    out = tmp_path_factory.mktemp("long") / "run"
    assert main(["train", str(own_recipe), "--out", str(out), *long_range]) == 0
    return out


def charges_of(file: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(file).items() if name.startswith(OF_CHARGES)}


def test_weights_of_charges_are_averaged(run: Path) -> None:
    averaged = charges_of(run / "model" / "model.safetensors")
    raw = charges_of(run / "model" / "raw.safetensors")
    assert averaged.keys() == raw.keys() != set()
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    loaded = foundation.load(run).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in averaged.items())


def test_a_killed_and_resumed_run_ends_with_the_same_charges(
    run: Path, own_recipe: Path, long_range: list[str], tmp_path: Path
) -> None:
    arguments = ["train", str(own_recipe), "--out", str(tmp_path / "run"), *long_range]
    killed = FORK.Process(target=train_and_die, args=(arguments,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert main([*arguments, "--resume"]) == 0
    for name in ("model.safetensors", "raw.safetensors"):
        expected, found = charges_of(run / "model" / name), charges_of(tmp_path / "run" / "model" / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_an_exported_model_and_the_calculator_feel_charges_beyond_the_cutoff(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(run), "--to", "directory", "--out", str(out)]) == 0
    force = repulsion_beyond_sight(FoundationCalculator(out, dtype="float64"))
    assert force == pytest.approx(foundation.units.COULOMB_CONSTANT / 14.0**2, rel=0.05), "of two elementary charges"
    assert repulsion_beyond_sight(FoundationCalculator(run, dtype="float64")) == force


def test_the_calculator_takes_a_field(run: Path) -> None:
    field = (0.02, 0.0, -0.01)
    ion = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])
    ion.info.update(total_charge=-1, spin_multiplicity=1)
    ion.calc = FoundationCalculator(run, electric_field=field, dtype="float64")
    assert ion.get_forces().sum(0) == pytest.approx(-np.array(field), abs=1e-9), "an ion is pulled by Q F"
    ion.set_cell([10, 10, 10])
    ion.pbc = [True, False, False]
    with pytest.raises(foundation.InputError, match="a part along a direction in which the structure repeats"):
        ion.get_forces()


def test_fine_tuning_starts_with_the_charges_of_the_source(run: Path, own_recipe: Path, long_range: list[str]) -> None:
    recipe = load_recipe(own_recipe, overrides=[*long_range, f"init={{from: {run}}}"])
    plan = make_plan(recipe, prepare_data(recipe), start=str(run))
    source = foundation.load(run).state_dict()
    names = [name for name in source if name.startswith(OF_CHARGES)]
    assert names
    assert all(torch.equal(plan.model.state_dict()[name], source[name]) for name in names)
    assert plan.init is not None
    assert {check.property for check in plan.init.parity} >= {"energy", "forces", "partial_charges"}
    assert len(plan.model.feedback) == ("feedback" in "".join(long_range))
    assert isinstance(plan.model.heads["charges"].model, Equilibration) == ("qeq" in "".join(long_range))


def test_charged_cells_are_predicted_with_a_warning(run: Path, tmp_path: Path) -> None:
    cell = far_ions()
    cell.set_cell([20, 20, 20])
    cell.pbc = True
    ase.io.write(tmp_path / "cell.xyz", cell, format="extxyz")
    out = tmp_path / "out.json"
    with pytest.warns(
        UserWarning,
        match="1 of 1 structures are periodic .* a uniform background of charge .* another system to the model",
    ):
        assert main(["predict", str(run), str(tmp_path / "cell.xyz"), "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))


def test_a_fraction_of_a_charge_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ion = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])
    ion.info.update(total_charge=-0.5, spin_multiplicity=1)
    ase.io.write(tmp_path / "ion.xyz", ion, format="extxyz")
    arguments = ["predict", str(run), str(tmp_path / "ion.xyz"), "--out", str(tmp_path / "out.json")]
    assert main(arguments) == 2
    assert "total charge -0.5 is not an integer" in capsys.readouterr().err
