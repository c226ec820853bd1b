"""The rows of the bake-off: what `rows.yaml` may say, checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foundation.config import Config, load_yaml, validate
from foundation.errors import InputError

__all__ = [
    "CASES",
    "NUM_ATOMS",
    "CurveRow",
    "FoundationModelRow",
    "MaceModelRow",
    "NequipModelRow",
    "Rows",
    "SpeedRow",
    "TrainingData",
    "load_rows",
]

ROWS_FILE = Path(__file__).with_name("rows.yaml")
Case = Literal["train8", "aspirin", "water192", "water1536", "water12288"]
CASES: tuple[Case, ...] = ("train8", "aspirin", "water192", "water1536", "water12288")
NUM_ATOMS: dict[Case, int] = {"train8": 168, "aspirin": 21, "water192": 192, "water1536": 1536, "water12288": 12288}
Mode = Literal["eager", "compile"]


class FoundationModelRow(Config):
    """Our own model.

    Attributes:
        recipe: Shipped recipe whose model, optimizer and losses are taken; its data are replaced by the row's.
        overrides: `key=value` of the recipe.
        epochs: Passes over 950 frames; smaller sets get as many steps.
    """

    program: Literal["foundation"]
    recipe: str
    overrides: tuple[str, ...] = ()
    epochs: int = Field(ge=1)


class MaceModelRow(Config):
    """mace-torch.

    Attributes:
        version: Of the package on PyPI.
        arguments: Of `mace_run_train`, without the leading dashes; true for a flag.
    """

    program: Literal["mace"]
    version: str
    arguments: dict[str, str | int | float | bool]


class NequipModelRow(Config):
    """nequip.

    Attributes:
        version: Of the package on PyPI.
        model: The section `training_module.model` of its configuration, data statistics and types left out.
        ema_decay: Of its moving average.
        learning_rate: Of Adam.
        plateau: Arguments of its ReduceLROnPlateau.
    """

    program: Literal["nequip"]
    version: str
    model: dict[str, Any]
    ema_decay: float = Field(gt=0, lt=1)
    learning_rate: float = Field(gt=0)
    plateau: dict[str, float | int]


ModelRow = Annotated[FoundationModelRow | MaceModelRow | NequipModelRow, Field(discriminator="program")]


class TrainingData(Config):
    """One training set of rMD17, official split 01, or of 3BPA at 300 K.

    Attributes:
        molecule: As in rMD17's file names; or `3bpa`, of which the hot frames of the mixed temperatures are tested too.
        train: The first so many training frames.
        val: The next so many.
        test: The first so many test frames; the official test sets have 1,000 and 1,669.
    """

    molecule: str
    train: int = Field(ge=1)
    val: int = Field(ge=1)
    test: int = Field(1000, ge=1)


class CurveRow(Config):
    """One time-to-error curve.

    Attributes:
        model: Key of `models`.
        data: What it learns.
        batch_size: Structures a step.
        threads: CPU threads.
        mode: Whether the training step is compiled.
        budget_cpu_s: CPU seconds of training.
        first_point_cpu_s: CPU seconds until weights are first kept.
        growth: Each next time is this many times the last.
        seed: Of weights and order.
    """

    model: str
    data: TrainingData
    batch_size: int = Field(ge=1)
    threads: int = Field(ge=1)
    mode: Mode
    budget_cpu_s: float = Field(gt=0)
    first_point_cpu_s: float = Field(gt=0)
    growth: float = Field(gt=1)
    seed: int = Field(ge=0)


class SpeedRow(Config):
    """Throughput, latency and memory of one model.

    Attributes:
        model: Key of `models`.
        mode: Eager or compiled.
        cases: What is measured, each in a process of its own.
        threads: CPU threads to measure with, one after the other.
        allocators: `keep` sets MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_MAX_=0, `default` leaves glibc as it is.
        memory_limit_gib: Address space of a case; one that wants more is recorded as out of memory.
        repetitions: Wanted of each measurement.
        max_seconds: After this long no further repetition is begun, once there are three.
    """

    model: str
    mode: Mode
    cases: tuple[Case, ...] = Field(min_length=1)
    threads: tuple[int, ...] = Field(min_length=1)
    allocators: tuple[Literal["keep", "default"], ...] = Field(min_length=1)
    memory_limit_gib: float = Field(gt=0)
    repetitions: int = Field(ge=3)
    max_seconds: float = Field(gt=0)


class Rows(Config):
    """Everything that can be run.

    Attributes:
        models: Name -> program and its settings.
        curves: Name -> time-to-error curve.
        speed: Name -> throughput, latency and memory.
    """

    models: dict[str, ModelRow]
    curves: dict[str, CurveRow]
    speed: dict[str, SpeedRow]

    @model_validator(mode="after")
    def _known_models(self) -> Rows:
        problems = [
            f"{section}.{name}.model: got '{row.model}'; allowed: {', '.join(self.models)}"
            for section, rows in (("curves", self.curves), ("speed", self.speed))
            for name, row in rows.items()
            if row.model not in self.models
        ]
        if problems:
            raise InputError(problems)
        return self

    def curve(self, name: str) -> CurveRow:
        """The row of that name.

        Raises:
            InputError: There is none.
        """
        if name not in self.curves:
            raise InputError(f"curve: got '{name}'; allowed: {', '.join(self.curves)}")
        return self.curves[name]

    def speed_row(self, name: str) -> SpeedRow:
        """The row of that name.

        Raises:
            InputError: There is none.
        """
        if name not in self.speed:
            raise InputError(f"speed: got '{name}'; allowed: {', '.join(self.speed)}")
        return self.speed[name]


def load_rows(file: Path = ROWS_FILE) -> Rows:
    """Read and check the rows.

    Raises:
        InputError: Each mistake with its path.
    """
    return validate(Rows, load_yaml(file), where=str(file))
