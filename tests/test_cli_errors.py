"""Bad input on the real command line: one clear message, exit code 2, no traceback, nothing half written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.commands import doctor
from foundation.errors import InputError

FRAME = """3
Lattice="{cell}" Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} pbc="{pbc}"
O 0.0 0.0 {z} 0.0 0.0 0.1
H 0.0 0.76 0.59 0.0 0.0 0.0
H 0.0 -0.76 0.59 0.0 0.0 -0.1
"""
RECIPE = """
extends: [base, backbones/xs]
data:
  mine:
    source: {source}
    format: extxyz
    level_of_theory: PBE
    charge: 0
    spin: 1
    properties:
      energy: {{key: energy, unit: eV}}
      forces: {{key: forces, unit: eV/Å}}
    split: {{train: 4, val: 1, test: 1, seed: 0}}
tasks:
  energy: {{property: energy, data: [mine], weight: 1}}
  forces: {{property: forces, data: [mine], weight: 10}}
trainer: {{max_epochs: 1}}
"""

Refuse = Callable[..., str]


def frames(count: int = 6, *, cell: str = "9 0 0 0 9 0 0 0 9", pbc: str = "F F F", energy: str = "-14.2") -> str:
    """Water molecules, each a little different."""
    return "".join(FRAME.format(cell=cell, pbc=pbc, energy=energy, z=f"{0.001 * index:.3f}") for index in range(count))


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Trains on `content` with overrides, and gives the message; checks exit code and that nothing was written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))

    def run(*overrides: str, content: str | None = None, source: str = "my.xyz") -> str:
        Path("my.xyz").write_text(frames() if content is None else content, encoding="utf-8")
        Path("mine.yaml").write_text(RECIPE.format(source=source), encoding="utf-8")
        before = sorted(tmp_path.rglob("*"))
        assert main(["train", "mine.yaml", "--out", "run", *overrides]) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert "error: " in message
        assert not Path("run").exists(), "nothing half written"
        stores = [path for path in tmp_path.rglob("*.arrow") if path not in before]
        assert not any(path.parent.name.startswith(".") for path in stores), "no half store"
        return message

    return run


# ------------------------------------------------------------------------------------------------------------- recipes


def test_a_misspelt_recipe_key_names_the_nearest(refuse: Refuse) -> None:
    message = refuse("optimizer.learning_rte=0.1")
    assert "optimizer.learning_rte: unknown key 'learning_rte'; nearest: 'learning_rate'" in message


def test_a_wrong_type(refuse: Refuse) -> None:
    assert "seed: got 'zero' (text); allowed: a valid integer" in refuse("seed=zero")


def test_a_missing_data_file(refuse: Refuse) -> None:
    assert "absent.xyz: no such file" in refuse(source="absent.xyz")


def test_a_missing_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quickstrat"]) == 2
    assert "no file 'quickstrat'; nearest shipped: 'quickstart'" in capsys.readouterr().err


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quickstart", "--resum"]) == 2
    assert "unrecognised: --resum; nearest: '--resume'" in capsys.readouterr().err
    assert main(["data", "generate", "--out", "x", "--geometry=5"]) == 2
    assert "unrecognised: --geometry=5; nearest: '--geometries'" in capsys.readouterr().err


def test_an_unknown_command_or_choice_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, close in (
        (["trian", "x"], "train"),
        (["data", "shwo"], "show"),
        (["export", "m", "--to=dirctory"], "directory"),
    ):
        assert main(arguments) == 2
        assert f"nearest: '{close}'" in capsys.readouterr().err


def test_of_very_many_problems_the_first_are_printed(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def refuse(_: object) -> None:
        raise InputError([f"problem {number}" for number in range(100)])

    monkeypatch.setattr(doctor, "run", refuse)
    assert main(["doctor"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-2], lines[-1]) == (
        "error: problem 0",
        "error: problem 39",
        "error: … and 60 more problems",
    )


def test_a_label_that_the_card_does_not_declare(refuse: Refuse) -> None:
    assert "tasks.dipole: data 'mine' has no label 'dipole'; it has: energy, forces" in refuse(
        "tasks.dipole={property: dipole, data: [mine]}"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=-3", "trainer: max_epochs must be a non-negative integer"),
        ("trainer.accelerator=foo", "trainer: You selected an invalid accelerator name: accelerator='foo'"),
        ("trainer.devices=some", "trainer.devices: got 'some'; allowed: a number, auto"),
        ("trainer.val_check_interval=1000", "trainer.val_check_interval: val_check_interval (1000) must be less"),
    ],
)
def test_a_value_that_lightning_refuses(refuse: Refuse, override: str, message: str) -> None:
    assert message in refuse(override, "schedule.warmup_steps=0", "trainer.accelerator=cpu", override)


def test_values_that_lightning_would_take_for_something_else_are_all_named(refuse: Refuse) -> None:
    message = refuse(
        *("trainer.precision=16-mixed", "trainer.accumulate_grad_batches=0", "trainer.log_every_n_steps=0"),
        *("trainer.limit_train_batches=0", "trainer.gradient_clip_val=-1.0", "trainer.check_val_every_n_epoch=0"),
    )
    assert "trainer.precision: got '16-mixed'; allowed: 32-true, 64-true, bf16-mixed" in message
    assert "trainer.limit_train_batches: got 0; allowed: more than 0" in message
    assert "trainer.gradient_clip_val: got -1.0; allowed: 0 or more" in message
    assert message.count("; allowed: 1 or more") == 3


def test_more_warm_up_than_steps_leaves_no_run_directory(refuse: Refuse) -> None:
    assert "schedule.warmup_steps: 50; allowed: fewer than" in refuse("schedule.warmup_steps=50")


# ---------------------------------------------------------------------------------------------------------------- data


def test_a_unit_that_nobody_declared(refuse: Refuse) -> None:
    assert "states no unit" in refuse("data.mine.properties={energy: {key: energy, unit: null}}")


def test_an_unknown_unit(refuse: Refuse) -> None:
    assert "unknown factor 'eVV'" in refuse("data.mine.properties.energy.unit=eVV")


def test_a_unit_of_something_else(refuse: Refuse) -> None:
    assert "does not measure the same thing" in refuse("data.mine.properties.forces.unit=eV")


def test_a_file_without_the_labelled_key(refuse: Refuse) -> None:
    message = refuse("data.mine.properties.energy.key=dft_energy")
    assert "dft_energy" in message
    assert "my.xyz" in message


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_label_that_is_no_number(refuse: Refuse, value: str) -> None:
    message = refuse(content=frames(5) + frames(1, energy=value))
    assert "energy" in message
    assert "my.xyz" in message


def test_atoms_on_top_of_each_other(refuse: Refuse) -> None:
    assert "on top of each other" in refuse(content=frames(5) + frames(1).replace("H 0.0 -0.76", "H 0.0 0.76"))


def test_a_cell_without_volume(refuse: Refuse) -> None:
    assert "no volume" in refuse(content=frames(5) + frames(1, cell="9 0 0 9 0 0 0 0 9", pbc="T T T"))


def test_a_charge_that_nobody_states(refuse: Refuse) -> None:
    message = refuse("data.mine.charge=null", "data.mine.spin=null")
    assert "data 'mine': charge: missing" in message
    assert "data 'mine': spin: missing" in message, "all problems at once"


def test_an_empty_split(refuse: Refuse) -> None:
    message = refuse("data.mine.split={train: 6, val: 1, test: 1}")
    assert "6" in message
    assert "mine" in message


def test_a_split_that_leaves_no_training_structures(refuse: Refuse) -> None:
    assert "mine" in refuse("data.mine.split={train: null, val: 3, test: 3}")


def test_an_unknown_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "rmd17/asprin"]) == 2
    assert "no card 'rmd17/asprin'; nearest: 'rmd17/aspirin'" in capsys.readouterr().err


CARD = """
description: Water.
licence: CC0-1.0
citation: []
urls: []
source: {source}
format: extxyz
level_of_theory: PBE
charge: 0
spin: 1
properties: {{energy: {{key: energy, unit: eV}}}}
elements: [H, O]
num_structures: 6
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A user's own card file."""
    (tmp_path / "my.xyz").write_text(frames(), encoding="utf-8")
    path = tmp_path / "water.yaml"
    path.write_text(CARD.format(source=tmp_path / "my.xyz"), encoding="utf-8")
    return path


def test_a_corrupt_store_shard_is_named(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    assert main(["data", "prepare", str(card)]) == 0
    (shard,) = (tmp_path / "cache").rglob("structures-*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["data", "prepare", str(card)]) == 2
    message = capsys.readouterr().err
    assert f"{shard.name}: corrupt store shard" in message
    assert "rebuild" in message


def test_a_card_that_does_not_fit_its_file(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(card)]) == 0
    card.write_text(
        card.read_text(encoding="utf-8").replace("num_structures: 6", "num_structures: 7"), encoding="utf-8"
    )
    assert main(["data", "check", str(card)]) == 2
    assert "num_structures: the card says 7, the file holds 6" in capsys.readouterr().err


def test_a_full_disk_while_preparing(card: Path, tmp_path: Path) -> None:
    """A limit of 1 kB on every file stands for a disk that is full; on the real command line, in a shell of its own."""
    command = f"ulimit -f 1; exec {sys.executable} -m foundation.cli data prepare {card}"
    environment = {"FOUNDATION_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the limit would cut compiled modules short, for every later process
    result = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 1, result.stderr
    assert "disk" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "cache").rglob("metadata.json"))


# ---------------------------------------------------------------------------------------------------- models and output


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model that knows H, C, N and O."""
    from foundation.checkpoint import CardInfo, save_model

    path = tmp_path_factory.mktemp("stored") / "model"
    save_model(make_model({"energy": {"kind": "energy"}}), path, card_info=CardInfo(title="test"))
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.smi", "CCO\nC(C\n", "C(C"),
        ("new.smi", "CCBr\n", "has never seen Br"),
        ("bad.txt", "CCO\n", "bad.txt"),
    ],
)
def test_inputs_that_cannot_be_predicted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    out = tmp_path / "out.csv"
    assert main(["predict", str(model), str(tmp_path / name), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_input_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(model), str(tmp_path / "absent.sdf"), "--out", str(tmp_path / "out.sdf")]) == 2
    assert "absent.sdf" in capsys.readouterr().err


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (str(tmp_path), str(tmp_path / "absent"), "org/name"):
        assert main(["evaluate", model, "rmd17/aspirin"]) == 2
        assert "model '" in capsys.readouterr().err


def test_evaluating_data_that_nobody_knows(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), "mine"]) == 2
    assert "data 'mine': allowed: a card" in capsys.readouterr().err


def test_a_level_of_theory_that_the_model_does_not_know(
    model: Path, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    assert main(["evaluate", str(model), str(card), "--split", "all"]) == 2
    assert "level of theory 'PBE' is unknown to the model; it knows: GFN2-xTB" in capsys.readouterr().err


def test_exporting_over_something(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "--to", "directory", "--out", str(tmp_path / "copy")]) == 0
    assert main(["export", str(model), "--to", "directory", "--out", str(tmp_path / "copy")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "copy", Path("/sys/foundation/copy")):  # not even root may write to the latter
        assert main(["hub", "push", str(model), str(place)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {place.parent}")
        assert "name another place, or make this one readable and writable" in message
        assert "Traceback" not in message


def test_a_disk_that_is_full_when_the_errors_are_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.xyz").write_text("2\nenergy=-1\nH 0 0 0\nH 0 0 0.7\n", encoding="utf-8")
    card = tmp_path / "new.yaml"
    facts = "level_of_theory: GFN2-xTB\ncharge: 0\nspin: 1\nproperties: {energy: {key: energy, unit: eV}}\n"
    card.write_text(facts, encoding="utf-8")
    full = ["--json", "/dev/full"]
    assert main(["evaluate", str(model), str(tmp_path / "new.xyz"), "--card", str(card), *full]) == 1
    message = capsys.readouterr().err
    assert "the disk is full; free some space or write elsewhere" in message
    assert "Traceback" not in message


def test_a_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert "no such directory" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- the real shell


def test_the_shell_sees_exit_code_2_and_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foundation.cli", "data", "show", "rmd17/asprin"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: no card 'rmd17/asprin'; nearest: 'rmd17/aspirin'")
    assert "Traceback" not in result.stderr


def test_listing_and_helping_do_not_load_torch(tmp_path: Path) -> None:
    code = "import sys; from foundation.cli import main; main(['data', 'list']); main(['--help'])"
    code += "; assert not {'torch', 'rdkit', 'lightning'} & sys.modules.keys()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "rmd17/aspirin" in result.stdout
    assert "train" in result.stdout


def test_the_schema_of_recipes_and_cards_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "backbone" in json.dumps(json.loads(capsys.readouterr().out)["$defs"]["ModelSection"])
    assert main(["schema", "--card"]) == 0
    assert "licence" in json.loads(capsys.readouterr().out)["properties"]
