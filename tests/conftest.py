"""What every test shares: one thread, no network, checked array shapes, and the folder of real data."""

from __future__ import annotations

import os

# Before torch and the Hugging Face libraries are imported, by this process or by a command that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from foundation.model import FoundationModel

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FOUNDATION_DATA", REPOSITORY.parent / "shared" / "data"))
ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# FOUNDATION_CHECK_SHAPES=0 turns the check of every annotated shape and type off, to see what production sees.
CHECKS_SHAPES = os.environ.get("FOUNDATION_CHECK_SHAPES", "1") != "0"
if CHECKS_SHAPES:
    from tests import shape_checks

    shape_checks.install()

OWN_RECIPE = """
extends: [base, backbones/xs]
model:
  backbone: {{cutoff: 4.0, channels: 8, pseudo_channels: 4, radial_width: 16, edge_degree: 2, product_degree: 2}}
data:
  mine:
    source: {source}
    format: extxyz
    level_of_theory: EMT
    charge: 0
    spin: 1
    properties:
      energy: {{key: energy, unit: eV}}
      forces: {{key: forces, unit: eV/Å}}
    split: {{train: 20, val: 4, test: 6, seed: 0}}
tasks:
  energy: {{property: energy, data: [mine], weight: 1}}
  forces: {{property: forces, data: [mine], weight: 10}}
optimizer: {{learning_rate: 0.01}}
schedule: {{warmup_steps: 2}}
batch: {{max_structures: 4}}
trainer: {{max_epochs: 3, log_every_n_steps: 1}}
seed: 3
"""

hypothesis.settings.register_profile("foundation", deadline=None, database=None, derandomize=ON_CI, max_examples=50)
hypothesis.settings.load_profile("foundation")


@pytest.fixture(scope="session", autouse=True)
def _models_are_predictors() -> None:
    """For the check of types: since Python 3.12 `isinstance` overlooks those members of a protocol that are modules."""
    if not CHECKS_SHAPES:
        return
    from foundation.model import FoundationModel
    from foundation.predict import Predictor

    Predictor.register(FoundationModel)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data sets; skips where it is absent (FOUNDATION_DATA names another place)."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found: {SHARED_DATA} is not a folder; set FOUNDATION_DATA to where it lies")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of prepared data and fetched models that belongs to the processes of this test run, not to the user."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    directory.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDATION_CACHE", str(directory))
        patch.setenv("FOUNDATION_KERNELS", str(directory / "kernels"))  # tests with other caches build none again
        yield directory


@pytest.fixture(scope="session")
def make_model() -> Callable[..., FoundationModel]:
    """Builds a small model with weights all drawn at random: fresh heads would predict zero and hide mistakes.

    Takes `heads` (name -> kind, or name -> mapping), `elements`, `levels`, `seed` and settings of the backbone.
    """
    import torch

    from foundation.config import validate
    from foundation.model import FoundationModel, ModelConfig

    def make(
        heads: Mapping[str, Mapping[str, object]],
        *,
        elements: Sequence[int] = (1, 6, 7, 8),
        levels: Sequence[str] = ("GFN2-xTB",),
        seed: int = 0,
        electrostatics: bool | Mapping[str, object] = False,
        repulsion: Mapping[str, object] | None = None,
        dispersion: Mapping[str, object] | None = None,
        **backbone: object,
    ) -> FoundationModel:
        size = {"cutoff": 4.0, "channels": 8, "pseudo_channels": 4, "radial_width": 16, "edge_degree": 2}
        config = {
            "backbone": {"kind": "equivariant", **size, "product_degree": 2, **backbone},
            "heads": dict(heads),
            "elements": list(elements),
            "levels": list(levels),
            "electrostatics": {"kind": "coulomb"} if electrostatics is True else electrostatics or None,
            "repulsion": repulsion,
            "dispersion": dispersion,
        }
        generator = torch.Generator().manual_seed(seed)
        model = FoundationModel(validate(ModelConfig, config, where="test model"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            for name, buffer in model.scaling.named_buffers():
                if name.startswith("references_"):
                    rows = torch.arange(len(levels)).double()[:, None]
                    buffer[:, list(elements)] = -10.0 * torch.tensor(elements).double() - rows
        return model.eval()

    return make


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """On CI a test that skips for want of data fails where the data lie: else nobody would notice that it never ran."""
    report = yield
    if report.skipped and ON_CI and SHARED_DATA.is_dir() and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "data" in reason.lower():
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped ({reason}), but the real data are at {SHARED_DATA}"
    return report


@pytest.fixture(scope="session")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own file: ethanol and methanol, thermally displaced, labelled by ASE's effective-medium potential.

    30 frames with energy and forces under ASE's own keys.
    """
    import ase.io
    import numpy as np
    from ase.build import molecule
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    random = np.random.default_rng(0)
    frames = []
    for index in range(30):
        atoms = molecule("CH3OH" if index % 2 else "CH3CH2OH")
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("own") / "my.xyz"
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.fixture(scope="session")
def own_recipe(own_file: Path) -> Path:
    """The recipe of the README with that file and a tiny model."""
    path = own_file.with_name("mine.yaml")
    path.write_text(OWN_RECIPE.format(source=own_file), encoding="utf-8")
    return path
