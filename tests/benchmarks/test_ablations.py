"""Design choices for the ablation table: rows are valid, exchanged parts keep the contracts, a row becomes a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from ase.build import molecule

from foundation import testing
from foundation.backbones import EquivariantConfig, equivariant
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.heads import default_head
from foundation.model import FoundationModel, ModelConfig
from foundation.nn.linear import calibrated
from foundation.recipe import load_recipe
from foundation.training.module import FoundationModule

CUTOFF = 4.0
OF_TRAINING = {"as_it_is", "late_energy"}
"""Designs that leave the model as it is."""
EXCHANGED = ("ElementPairs", "Layer", "NeighborSum", "bounded")
TINY = (
    "model.backbone.channels=4",
    "model.backbone.pseudo_channels=0",
    "model.backbone.degree=1",
    "model.backbone.correlation=1",
    "trainer.max_steps=2",
    "trainer.max_epochs=1",
)


@pytest.fixture
def exchangeable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What designs exchange is put back afterwards; float64."""
    for name in EXCHANGED:
        monkeypatch.setattr(equivariant, name, getattr(equivariant, name))
    monkeypatch.setattr(FoundationModule, "training_step", FoundationModule.training_step)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def graph_of(name: str) -> AtomGraph:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=1)
    graph = build_graph(
        positions=atoms.positions, atomic_numbers=atoms.numbers, total_charge=0.0, spin_multiplicity=1, pbc=atoms.pbc
    )
    return with_neighbors(graph, CUTOFF)


def build_model() -> FoundationModel:
    torch.manual_seed(0)
    shape = {"cutoff": CUTOFF, "channels": 8, "pseudo_channels": 4, "radial_width": 16, "radial_elements": True}
    config = ModelConfig(
        backbone=EquivariantConfig(**shape),
        heads={name: default_head(name) for name in ("energy", "dipole")},
        elements=(1, 6, 8),
        levels=("first",),
    )
    model = FoundationModel(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in model.scaling.named_buffers():
        if name.startswith("references"):
            buffer.zero_()
    with torch.no_grad(), calibrated(model.backbone):
        model.backbone(collate([graph_of("CH3CH2OH")]))
    return model.eval()


def test_every_row_is_a_valid_recipe_on_every_set(harness: Callable[[str], ModuleType]) -> None:
    ablations = harness("ablate").load_ablations()
    assert set(harness("variants.designs").DESIGNS) == {row.design for row in ablations.rows.values()}
    for row in ablations.rows.values():
        assert set(row.sets) <= set(ablations.sets)
        for one, (recipe, *words) in ablations.sets.items():
            load_recipe(recipe, overrides=[*words, *row.overrides, *row.sets.get(one, ())])


@pytest.mark.usefixtures("exchangeable")
def test_exchanged_parts_keep_the_contracts(harness: Callable[[str], ModuleType]) -> None:
    designs = harness("variants.designs").DESIGNS
    graphs = [graph_of("CH3CH2OH"), graph_of("H2O")]
    as_it_is = testing.predict(build_model(), graphs[0], ["energy"])["energy"]
    parts = {name: getattr(equivariant, name) for name in EXCHANGED}
    for name in sorted(set(designs) - OF_TRAINING):
        for part, original in parts.items():
            setattr(equivariant, part, original)
        designs[name]()
        model = build_model()
        testing.check_orthogonal(model, graphs[0], reflect=True)
        testing.check_forces(model, graphs[0])
        testing.check_batching(model, graphs)
        testing.check_cutoff_smoothness(model, numbers=(6, 8))
        assert (testing.predict(model, graphs[0], ["energy"])["energy"] - as_it_is).abs().max() > 1e-6, name


def test_an_unknown_row_set_or_design_is_refused(harness: Callable[[str], ModuleType], tmp_path: Path) -> None:
    ablate = harness("ablate")
    ablations = ablate.load_ablations()
    with pytest.raises(InputError, match="ablate: got 'so3'; allowed: default, so2"):
        ablate.run_ablation("so3", ablations, sets=[], overrides=[], results=tmp_path)
    with pytest.raises(InputError, match="--sets: got n51; allowed: n50, n950, 3bpa"):
        ablate.run_ablation("so2", ablations, sets=["n51"], overrides=[], results=tmp_path)
    (tmp_path / "rows.yaml").write_text("sets: {}\nrows: {one: {design: so3}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.one\.design: got 'so3'; allowed: as_it_is, so2"):
        ablate.load_ablations(tmp_path / "rows.yaml")
    assert not list(tmp_path.glob("*.jsonl"))
    assert harness("variants.designs").main(["so3", "train"]) == 2


@pytest.mark.ci
def test_a_row_becomes_a_line_of_the_table(
    harness: Callable[[str], ModuleType],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BAKEOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOUNDATION_DATA", str(shared_data))
    main, common = harness("__main__").main, ["--results", str(tmp_path / "results")]
    words = [word for override in TINY for word in ("--set", override)]
    assert main([*common, "ablate", "energy-late", "--sets", "3bpa", *words]) == 0, capsys.readouterr().err
    (line,) = harness("results").read_results(tmp_path / "results", kind="ablation")["energy-late"]
    assert line["words"][-1] == "trainer.max_epochs=1"
    assert line["hot_forces_rmse_meV_per_A"] > line["forces_rmse_meV_per_A"] > 0
    assert line["cpu_s"] > 1
    capsys.readouterr()
    assert main([*common, "table"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| energy-late |"))
    assert f"| {line['forces_rmse_meV_per_A']:.1f} |" in row
    assert row.count(" – |") == 4
