"""Models on disk: what is written is what is read, damage is noticed, a start from a model loses nothing unsaid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors.torch import load_file, save_file

from foundation.checkpoint import CardInfo, initialise_from, load, save_model
from foundation.checkpoint.axes import axes_of
from foundation.errors import InputError
from foundation.hub import resolve_model
from foundation.migrations import FORMAT_VERSION, migrate
from foundation.model import FoundationModel

MakeModel = Callable[..., FoundationModel]
ENERGY = {"energy": {"kind": "energy"}}
ENERGY_AND_CHARGES = {**ENERGY, "charges": {"kind": "charges"}}
WATER = "O"


@pytest.fixture
def saved(make_model: MakeModel, tmp_path: Path) -> tuple[FoundationModel, Path]:
    model = make_model(ENERGY_AND_CHARGES)
    model.scaling.provenance = {"GFN2-xTB": "made up for a test"}
    save_model(model, tmp_path / "run" / "model", card_info=CardInfo(title="test"))
    return model, tmp_path / "run" / "model"


def states_equal(one: FoundationModel, other: FoundationModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k].nan_to_num(), theirs[k].nan_to_num()) for k in ours)


def test_a_loaded_model_is_the_saved_one(saved: tuple[FoundationModel, Path]) -> None:
    model, directory = saved
    loaded = load(directory)
    assert states_equal(model, loaded)
    assert loaded.config == model.config
    assert loaded.scaling.provenance == model.scaling.provenance
    ours, theirs = model.predict(WATER), loaded.predict(WATER)
    for name, value in ours.values.items():
        assert (value == theirs.values[name]).all(), name


def test_a_run_directory_is_a_model(saved: tuple[FoundationModel, Path]) -> None:
    _, directory = saved
    assert resolve_model(directory.parent) == resolve_model(directory) == directory
    assert resolve_model(f"file://{directory.parent}") != directory  # fetched into the cache
    assert states_equal(load(directory), load(f"file://{directory.parent}"))


def test_loading_leaves_the_callers_random_numbers_alone(saved: tuple[FoundationModel, Path]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(saved[1])
    assert torch.equal(torch.rand(4), expected)


def test_averaged_weights_are_used_and_raw_ones_kept(make_model: MakeModel, tmp_path: Path) -> None:
    averaged, raw = make_model(ENERGY, seed=1), make_model(ENERGY, seed=2)
    save_model(averaged, tmp_path / "m", card_info=CardInfo(title="test"), raw_state=raw.state_dict())
    assert states_equal(load(tmp_path / "m"), averaged)
    assert states_equal(load(tmp_path / "m", raw=True), raw)


def test_saving_again_replaces_whole_and_leaves_no_litter(make_model: MakeModel, tmp_path: Path) -> None:
    first, second = make_model(ENERGY, seed=1), make_model(ENERGY, seed=2)
    save_model(first, tmp_path / "m", card_info=CardInfo(title="test"), raw_state=first.state_dict())
    save_model(second, tmp_path / "m", card_info=CardInfo(title="test"))
    assert states_equal(load(tmp_path / "m"), second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    assert not (tmp_path / "m" / "raw.safetensors").exists()


def test_the_card_says_what_a_user_needs(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(ENERGY, levels=("PBE", "CCSD"))
    model.scaling.provenance = {"PBE": "ridge least squares on 10 training labels"}
    info = CardInfo(
        title="water",
        summary={
            "data": {"mine": {"counts": {"train": 10}, "level_of_theory": "PBE", "licence": "CC0", "source": "x"}}
        },
        evaluation={"test": {"mine": {"energy": {"mae": 0.0123, "rmse": 0.02, "count": 5, "unit": "eV"}}}},
    )
    save_model(model, tmp_path / "m", card_info=info)
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    for part in ("# water", "mae 0.0123 eV", "PBE, CCSD", "H -10.000000", "ridge least squares", "CC0", "eV/Å"):
        assert part in text, part


def test_the_card_lists_what_was_learnt_by_which_heads(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model({"energy": {"kind": "energy"}, "charges": {"kind": "charges"}})
    task = {"data": ["mine"], "weight": 10.0, "head": None, "loss": None}
    tasks = {"pull": {**task, "property": "forces"}, "polarity": {**task, "property": "dipole"}}
    save_model(model, tmp_path / "m", card_info=CardInfo(title="water", summary={"tasks": tasks}))
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    table, rest = text.split("though no task of the run learnt it")
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["| property", "| dipole", "| forces"]
    assert "stress (energy (derivative of energy))" in rest.splitlines()[0]
    assert "| pull | forces | energy (derivative of energy) | mine | 10 |" in rest
    assert "| polarity | dipole | charges | mine | 10 |" in rest
    assert "None" not in text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: tuple[FoundationModel, Path], name: str) -> None:
    (saved[1] / name).unlink()
    with pytest.raises(InputError, match=name):
        load(saved[1])


def test_a_truncated_file_is_noticed(saved: tuple[FoundationModel, Path]) -> None:
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="damaged"):
        load(saved[1])


def test_every_tensor_that_does_not_fit_is_listed(saved: tuple[FoundationModel, Path]) -> None:
    _, directory = saved
    other = directory.parent / "other"
    tensors = load_file(directory / "model.safetensors")
    del tensors["backbone.mean_neighbors"]
    tensors["backbone.stray"] = torch.zeros(1)
    tensors["backbone.conditioning.level"] = torch.zeros(3, 8)
    other.mkdir()
    save_file(tensors, other / "model.safetensors")
    document = json.loads((directory / "config.json").read_text())
    document["weights"] = {"model.safetensors": hashlib.sha256((other / "model.safetensors").read_bytes()).hexdigest()}
    (other / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        load(other)
    text = str(caught.value)
    assert "'backbone.mean_neighbors' is missing" in text
    assert "'backbone.stray' is not part" in text
    assert "got (3, 8)" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "newer foundation"),
        ({"format_version": "1"}, "format_version"),
        ({"modle": 1}, "modle"),
        ({"weights": None}, "weights"),
    ],
)
def test_a_config_that_is_not_one_is_refused(
    saved: tuple[FoundationModel, Path], change: dict[str, object], message: str
) -> None:
    path = saved[1] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load(saved[1])


def test_migrations_go_step_by_step() -> None:
    steps = {
        1: lambda document, tensors: ({**document, "a": 1}, tensors),
        2: lambda document, tensors: ({**document, "b": document["a"] + 1}, {"new": tensors["old"]}),
    }
    document, tensors = migrate({"format_version": 1}, {"old": torch.ones(1)}, where="x", steps=steps, target=3)
    assert document == {"format_version": 3, "a": 1, "b": 2}
    assert tensors.keys() == {"new"}
    with pytest.raises(InputError, match="no migration leads from format_version 3 to 4"):
        migrate({"format_version": 1}, {"old": torch.ones(1)}, where="x", steps=steps, target=4)


def test_a_stored_model_of_every_format_version_still_loads(repository: Path) -> None:
    for version in range(1, FORMAT_VERSION + 1):
        directory = repository / "tests" / "stored_models" / f"format_{version}"
        expected = json.loads((directory / "expected.json").read_text())
        atoms = Atoms(expected["atomic_numbers"], expected["positions"])
        found = load(directory).predict(atoms, charge=expected["total_charge"], spin=expected["spin_multiplicity"])
        assert found.values.keys() == expected["values"].keys()
        for name, value in expected["values"].items():
            largest = np.abs(value).max()
            np.testing.assert_allclose(found.values[name], value, rtol=1e-5, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such", "state its revision: 'no/such@main'"),
        ("nowhere", "no such directory"),
        ("org/name@v1", "cannot be reached"),
        ("nosuchprotocol://x/y", "nosuchprotocol"),
        ("memory://nothing/here", "not a run or model directory"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(InputError, match="no finished model"):
        load(tmp_path)


def test_initialising_from_an_equal_model_reproduces_it(make_model: MakeModel) -> None:
    source, model = make_model(ENERGY_AND_CHARGES, seed=1), make_model(ENERGY_AND_CHARGES, seed=2)
    report = initialise_from(model, source)
    assert states_equal(model, source)
    assert set(report.loaded) == source.state_dict().keys()
    assert (report.new, report.skipped, report.unchecked) == ((), (), {})
    assert {one.property for one in report.parity} == source.properties
    assert all(one.largest > 0 for one in report.parity)


def test_unnamed_new_and_left_over_tensors_are_refused(make_model: MakeModel) -> None:
    source = make_model({**ENERGY, "noise": {"kind": "denoising"}}, seed=1)
    model = make_model(ENERGY_AND_CHARGES, seed=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        initialise_from(model, source)
    text = str(caught.value)
    assert "'heads.charges.model.charge.outer.weight' is new" in text
    assert "'heads.noise.readout.direct' of the source has no place" in text
    assert all(torch.equal(before[k].nan_to_num(), v.nan_to_num()) for k, v in model.state_dict().items())


@pytest.mark.parametrize("patterns", [{"reset": ["heads.charges.*", "heads.noise.*"]}, {"keep": ["backbone.*"]}])
def test_named_tensors_start_afresh_and_the_rest_is_carried_over(
    make_model: MakeModel, patterns: dict[str, list[str]]
) -> None:
    source = make_model({**ENERGY, "noise": {"kind": "denoising"}}, seed=1)
    model = make_model(ENERGY_AND_CHARGES, seed=2)
    fresh = model.state_dict()["heads.charges.model.charge.outer.weight"].clone()
    report = initialise_from(model, source, **patterns)
    assert torch.equal(model.state_dict()["heads.charges.model.charge.outer.weight"], fresh)
    assert "heads.charges.model.charge.outer.weight" in report.new
    assert "heads.noise.readout.direct" in report.skipped
    assert torch.equal(model.backbone.conditioning.element, source.backbone.conditioning.element)
    checked = {one.property for one in report.parity}
    if "reset" in patterns:
        assert checked == {"energy", "forces", "stress"}
    else:
        assert not checked
        assert "starts afresh" in report.unchecked["energy"]
    assert set(report.unchecked) == model.properties - checked
    assert "heads.charges.model.charge.outer.weight" in report.describe()
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_pattern_that_matches_nothing_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match=r"'head\.\*' matches no tensor"):
        initialise_from(make_model(ENERGY), make_model(ENERGY), reset=["head.*"])


def test_a_model_configured_differently_fails_at_step_0_and_stays_as_it_was(make_model: MakeModel) -> None:
    source, model = make_model(ENERGY, seed=1), make_model(ENERGY, seed=2, cutoff=3.5)
    before = model.state_dict()["backbone.conditioning.element"].clone()
    with pytest.raises(InputError, match=r"predicted differently at step 0.*backbone\.cutoff: 3\.5, the source's 4\.0"):
        initialise_from(model, source)
    assert torch.equal(model.state_dict()["backbone.conditioning.element"], before)


def test_another_size_is_refused_by_name(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match=r"tensor 'backbone\.conditioning\.element': the source's shape \(5, 8\)"):
        initialise_from(make_model(ENERGY, channels=16), make_model(ENERGY))


def test_elements_and_levels_move_by_meaning_not_by_row(make_model: MakeModel) -> None:
    heads = {**ENERGY, "mask": {"kind": "masked_atom"}}
    source = make_model(heads, elements=(1, 6, 8), levels=("PBE", "CCSD"), seed=1)
    model = make_model(heads, elements=(1, 3, 8, 9), levels=("new", "PBE"), seed=2)
    ours, theirs = model.backbone.conditioning, source.backbone.conditioning
    fresh = ours.element[1].clone()
    source.scaling.provenance = {"PBE": "ridge", "CCSD": "ridge"}
    model.scaling.provenance = {"new": "given", "PBE": "to be replaced"}
    report = initialise_from(model, source)
    assert torch.equal(ours.element[[0, 2, 4]], theirs.element[[0, 2, 3]])  # H, O, hidden
    assert torch.equal(ours.element[1], fresh)  # Li
    assert torch.equal(ours.level[1], theirs.level[0])
    references = model.scaling.references("energy")
    assert references[0, 1] == -10.0  # level 'new' keeps what its own data gave
    assert references[1, 8] == source.scaling.references("energy")[0, 8]
    assert references[1, 3] == -31.0  # Li, which the source never saw, keeps what the new data gave
    assert model.scaling.provenance == {"new": "given", "PBE": "ridge (of the model that this one started from)"}
    assert report.new_elements == (3, 9)
    assert report.new_levels == ("new",)
    moved = {one.name: one for one in report.extended}["heads.mask.readout.outer.bias"]
    assert (moved.new, moved.dropped) == (("Li", "F"), ("C",))
    assert {one.property for one in report.parity} == model.properties


@pytest.mark.parametrize("sharing", [1.0, 0.5])
def test_every_axis_that_grows_with_elements_or_levels_is_known(make_model: MakeModel, sharing: float) -> None:
    heads = {**ENERGY_AND_CHARGES, "mask": {"kind": "masked_atom"}, "noise": {"kind": "denoising"}}
    shape = {"level_sharing": sharing, "radial_elements": True}
    small = make_model(heads, elements=(1, 6), levels=("a",), **shape)
    large = make_model(heads, elements=(1, 6, 7, 8, 9), levels=("a", "b", "c"), **shape)
    for name, tensor in large.state_dict().items():
        grown = [one != other for one, other in zip(small.state_dict()[name].shape, tensor.shape, strict=True)]
        known = [axis not in (None, "atomic_numbers") for axis in axes_of(name, tensor.ndim, large.config)]
        assert grown == known, name


WEIGHT = "layers.0.natural_first.weight"


def test_weights_of_levels_move_by_level_and_a_new_one_starts_from_their_mean(make_model: MakeModel) -> None:
    source = make_model(ENERGY, levels=("PBE", "CCSD", "xTB"), level_sharing=0.5, seed=1)
    model = make_model(ENERGY, levels=("new", "xTB", "PBE"), level_sharing=0.25, seed=2)
    report = initialise_from(model, source)
    ours, theirs = model.backbone.get_parameter(WEIGHT), source.backbone.get_parameter(WEIGHT)
    assert torch.equal(ours[1:], theirs[[2, 0]])
    torch.testing.assert_close(ours[0], theirs.mean(0))
    assert {one.property for one in report.parity} == model.properties
    moved = {one.name: one for one in report.extended}[f"backbone.{WEIGHT}"]
    assert (moved.new, moved.dropped) == (("new",), ("CCSD",))


def test_weights_that_all_levels_share_become_those_of_each(make_model: MakeModel) -> None:
    source = make_model(ENERGY, levels=("PBE",), seed=1)
    model = make_model(ENERGY, levels=("PBE", "new"), level_sharing=0.5, seed=2)
    report = initialise_from(model, source)
    ours, theirs = model.backbone.get_parameter(WEIGHT), source.backbone.get_parameter(WEIGHT)
    assert torch.equal(ours, torch.stack([theirs, theirs]))
    assert {one.property for one in report.parity} == model.properties


def test_one_level_of_many_becomes_a_model_of_its_own(make_model: MakeModel) -> None:
    source = make_model(ENERGY, levels=("PBE", "CCSD"), level_sharing=0.5, seed=1)
    model = make_model(ENERGY, levels=("CCSD",), seed=2)
    report = initialise_from(model, source)
    assert torch.equal(model.backbone.get_parameter(WEIGHT), source.backbone.get_parameter(WEIGHT)[1])
    assert {one.property for one in report.parity} == model.properties
    with pytest.raises(InputError, match=r"the source has weights for each of PBE, CCSD; allowed: model\.backbone"):
        initialise_from(make_model(ENERGY, levels=("PBE", "CCSD"), seed=2), source)


def test_electrostatics_is_part_of_parity(make_model: MakeModel) -> None:
    source = make_model(ENERGY_AND_CHARGES, seed=1, electrostatics=True)
    report = initialise_from(make_model(ENERGY_AND_CHARGES, seed=2, electrostatics=True), source)
    assert "energy" in {one.property for one in report.parity}
    with pytest.raises(InputError, match="electrostatics"):
        initialise_from(make_model(ENERGY_AND_CHARGES, seed=2), source)


def test_repulsion_and_dispersion_cannot_change_unsaid(make_model: MakeModel) -> None:
    """They have no tensors, and parity sees no dispersion at all."""
    pytest.importorskip("dftd3", reason="the optional package dftd3 is not installed")
    terms = {"repulsion": {"kind": "zbl"}, "dispersion": {"functional": "pbe"}}
    source, model = make_model(ENERGY, seed=1, **terms), make_model(ENERGY, seed=2)
    before = model.state_dict()["backbone.conditioning.element"].clone()
    with pytest.raises(InputError) as caught:
        initialise_from(model, source)
    assert "model.repulsion: got none, the source's kind: zbl" in str(caught.value)
    assert "model.dispersion: got none, the source's kind: d3bj, functional: pbe" in str(caught.value)
    assert torch.equal(model.state_dict()["backbone.conditioning.element"], before)
    with pytest.raises(
        InputError, match=r"got kind: d3bj, functional: b3lyp.*the source's kind: d3bj, functional: pbe"
    ):
        initialise_from(make_model(ENERGY, **{**terms, "dispersion": {"functional": "b3lyp"}}), source)
    assert initialise_from(make_model(ENERGY, **terms), source).changed_terms == {}


@pytest.mark.parametrize("reset", [["repulsion", "dispersion"], ["*rsion", "repul*"]])
def test_terms_of_the_energy_change_where_that_is_said(make_model: MakeModel, reset: list[str]) -> None:
    """New labels may include dispersion; all else of the energy still has to agree."""
    pytest.importorskip("dftd3", reason="the optional package dftd3 is not installed")
    source = make_model(ENERGY, seed=1, dispersion={"functional": "pbe"})
    model = make_model(ENERGY, seed=2, repulsion={"kind": "zbl"})
    report = initialise_from(model, source, reset=reset)
    assert model.repulsion is not None
    assert source.repulsion is None
    assert {one.property for one in report.parity} == model.properties
    assert report.to_dict()["changed_terms"] == {
        "repulsion": "kind: zbl, the source's none",
        "dispersion": "none, the source's kind: d3bj, functional: pbe, cutoff: 32.0",
    }
    assert "dispersion, which energies change with: none, the source's kind: d3bj" in report.describe()
    assert "without repulsion and dispersion)" in report.describe()


def test_terms_of_energies_that_start_afresh_are_free_but_listed(make_model: MakeModel) -> None:
    source, model = make_model(ENERGY, seed=1, repulsion={"kind": "zbl"}), make_model(ENERGY, seed=2)
    report = initialise_from(model, source, keep=["backbone.*"])
    assert report.changed_terms == {"repulsion": "none, the source's kind: zbl"}
    with pytest.raises(InputError, match=r"'dispersion' matches no tensor or term"):
        initialise_from(make_model(ENERGY), source, reset=["dispersion"])
