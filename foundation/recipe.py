"""The recipe: everything that decides a run, in one strict, frozen object."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, field_validator, model_validator

from foundation.backbones import BackboneConfig
from foundation.compilation import CompileConfig
from foundation.config import Config, apply_overrides, nearest, resolve_extends, validate
from foundation.data.card import PACKAGE_PREFIX, DatasetConfig
from foundation.data.mixture import MixtureConfig
from foundation.data.sampler import BatchConfig
from foundation.electrostatics import ElectrostaticsConfig
from foundation.errors import InputError
from foundation.heads import HeadConfig
from foundation.heads.charges import ChargesConfig
from foundation.physics import DispersionConfig, ZBLConfig
from foundation.properties import get_property
from foundation.resources import recipes_dir
from foundation.training.ema import EmaConfig
from foundation.training.losses import LossConfig
from foundation.training.objectives import ObjectiveConfig
from foundation.training.optim import OptimizerConfig
from foundation.training.schedule import ScheduleConfig

__all__ = [
    "EarlyStoppingConfig",
    "ModelSection",
    "Recipe",
    "RecipeStart",
    "TaskConfig",
    "WandbConfig",
    "load_recipe",
    "recipe_name",
]

OWN_TRAINER_ARGUMENTS = {
    "callbacks": "the sections ema and early_stopping decide them",
    "logger": "CSV and TensorBoard logs are always written; the section wandb adds Weights & Biases",
    "default_root_dir": "it is the run directory, --out",
    "use_distributed_sampler": "batches are divided between ranks by the data module",
    "enable_checkpointing": "checkpoints are always written",
    "plugins": "they are objects, which a recipe cannot name",
    "reload_dataloaders_every_n_epochs": "batches of every epoch are planned by the data module",
    "barebones": "it leaves out logs and checkpoints",
    "model_registry": "models are published with `foundation hub push`",
    "inference_mode": "forces need gradients during validation",
}
"""Arguments of `lightning.Trainer` that this program sets itself, and why."""
HEADS_OF_MANY_PROPERTIES = ("tensor", "pseudoscalar", "invariant", "atom_classification")
_MAX_TIME = re.compile(r"^\d+:\d\d:\d\d:\d\d$")


class TaskConfig(Config):
    """One property to learn from some data sets.

    Attributes:
        property: Its name in the property table.
        data: Data sets whose labels count.
        weight: Factor of this task in the total loss.
        head: What reads it out; None for what the property wants.
        loss: None for what the property wants.
    """

    property: str
    data: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    head: HeadConfig | None = None
    loss: LossConfig | None = None

    @field_validator("property")
    @classmethod
    def _known(cls, value: str) -> str:
        return get_property(value).name


class ModelSection(Config):
    """What the model is made of, apart from heads, which tasks and objectives decide.

    Attributes:
        backbone: The shared body.
        electrostatics: Long-range energy from charges; None for none.
        charges: The head of the charges where `electrostatics.latent` has them learnt without a task of their own; None
            for charges that start from the elements' electronegativities.
        repulsion: Repulsion of nuclei at short distances; None for none.
        dispersion: Dispersion that the labels lack, added to predictions; None for none.
        elements: Symbols that the model is to know besides those of the data.
    """

    backbone: BackboneConfig
    electrostatics: ElectrostaticsConfig | None = None
    charges: ChargesConfig | None = None
    repulsion: ZBLConfig | None = None
    dispersion: DispersionConfig | None = None
    elements: tuple[str, ...] = ()


class RecipeStart(Config):
    """A recipe that is trained first, into `pretrain/` of the run directory, to start from.

    Attributes:
        recipe: Name under recipes/, or a path.
        overrides: `key=value`, as on the command line.
    """

    recipe: str
    overrides: tuple[str, ...] = ()


class InitConfig(Config):
    """Start from another model instead of from random weights.

    Attributes:
        source: `from` in YAML: a run directory, a model directory, a hub id, or {recipe: NAME} to train that first.
        keep: Patterns of weights that have to be taken over, such as `backbone.*`.
        reset: Patterns of weights that start afresh although `keep` names them, such as `heads.dipole.*`; also
            `repulsion` or `dispersion`, where that is not to be the source's.
    """

    source: str | RecipeStart = Field(alias="from")
    keep: tuple[str, ...] = ("*",)
    reset: tuple[str, ...] = ()


class EarlyStoppingConfig(Config):
    """Stop when the validation loss has not fallen for a while.

    Attributes:
        patience: Validations without improvement.
        min_delta: What counts as improvement.
    """

    patience: int = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class WandbConfig(Config):
    """Metrics go to Weights & Biases too; it needs the package `wandb`.

    Attributes:
        project: Where runs are put together.
        entity: User or team; None for the user's own.
        name: Of the run; None for that of the run directory.
        tags: To find runs by.
        mode: `offline` writes to `wandb/` of the run directory, without network or login; `wandb sync` sends it later.
    """

    project: str = Field(default="foundation", min_length=1)
    entity: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline"] = "online"


class Recipe(Config):
    """Everything that decides a run. Recipes are YAML; docs/training.md explains its sections, recipes/ has examples.

    Attributes:
        description: For people.
        data: Name -> data set.
        tasks: Name -> labels to learn.
        objectives: Name -> what is learnt without labels: denoising, masked atoms.
        model: Backbone, electrostatics, repulsion and dispersion.
        init: Start from another model; None starts from random weights.
        optimizer: What moves the weights.
        schedule: How the learning rate goes.
        ema: Average of the weights, used for validation and saved; None for none.
        batch: Bounds of one batch on one device.
        mixture: How data sets are mixed.
        early_stopping: None trains to the end.
        keep: Which weights become the model: those of the lowest validation loss, or the last. Without validation data
            they are the last.
        checkpoint_minutes: How often a checkpoint to resume from is written, besides at the end of every epoch.
        trainer: Any argument of `lightning.Trainer`.
        seed: Of weights, order of data and noise.
        compile: Whether training steps are compiled, and what happens where that does not work.
        activation_checkpointing: Whether training computes layers anew in the backward pass instead of keeping their
            inner results: less memory, more time, the same gradients.
        threads: CPU threads; None for OMP_NUM_THREADS, else one a core.
        num_workers: Processes that load data; 0 loads in the main process.
        report: Write report.html at the end.
        wandb: Weights & Biases beside metrics.csv and TensorBoard; None for not.
    """

    description: str = ""
    data: dict[str, DatasetConfig] = Field(min_length=1)
    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    objectives: dict[str, ObjectiveConfig] = Field(default_factory=dict)
    model: ModelSection
    init: InitConfig | None = None
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    ema: EmaConfig | None = None
    batch: BatchConfig
    mixture: MixtureConfig = Field(default_factory=MixtureConfig)
    early_stopping: EarlyStoppingConfig | None = None
    keep: Literal["best", "last"] = "best"
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    trainer: dict[str, Any]
    seed: int = Field(ge=0)
    compile: CompileConfig = Field(default_factory=CompileConfig)
    activation_checkpointing: bool = False
    threads: int | None = Field(default=None, ge=1)
    num_workers: int = Field(default=0, ge=0)
    report: bool = True
    wandb: WandbConfig | None = None

    @field_validator("trainer")
    @classmethod
    def _check_trainer(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_trainer_arguments(value)
        return value

    @model_validator(mode="after")
    def _check_references(self) -> Recipe:
        problems = []
        if not self.tasks and not self.objectives:
            problems.append("tasks: none, and no objectives either: nothing would be learnt")
        if self.activation_checkpointing and self.compile.enabled:
            problems.append(
                "activation_checkpointing: got true with compile.enabled true, whose compiled steps decide themselves "
                "what is kept; allowed: one of the two"
            )
        for name, task in self.tasks.items():
            for dataset in task.data:
                if dataset not in self.data:
                    close = nearest(dataset, self.data)
                    hint = f"; nearest: '{close}'" if close else ""
                    known = ", ".join(self.data)
                    problems.append(f"tasks.{name}.data: got '{dataset}'{hint}; allowed (the keys of data): {known}")
        problems += [f"tasks and objectives are both named '{name}'" for name in self.tasks if name in self.objectives]
        problems += [
            f"{section}: the name '{name}' holds '/', which separates the parts of metric names"
            for section, names in (("data", self.data), ("tasks", self.tasks), ("objectives", self.objectives))
            for name in names
            if "/" in name
        ]
        if problems:
            raise InputError(problems)
        return self


def check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the section `trainer` against the signature of `lightning.Trainer`.

    Raises:
        InputError: Every unknown argument with the nearest right one, wrong type, and argument that is not free.
    """
    from lightning.pytorch import Trainer

    hints = typing.get_type_hints(Trainer.__init__)
    known = [name for name in inspect.signature(Trainer).parameters if name not in OWN_TRAINER_ARGUMENTS]
    problems = []
    for name, value in arguments.items():
        if name in OWN_TRAINER_ARGUMENTS:
            problems.append(f"trainer.{name}: cannot be set here: {OWN_TRAINER_ARGUMENTS[name]}")
        elif name not in known:
            close = nearest(name, known)
            hint = f"; nearest: '{close}'" if close else ""
            problems.append(f"trainer.{name}: unknown key '{name}'{hint}; allowed: {', '.join(known)}")
        elif name == "max_time" and not (_fits(value, hints[name]) and _is_time(value)):
            problems.append(f"trainer.max_time: got {value!r}; allowed: days:hours:minutes:seconds, as in 00:01:00:00")
        elif not _fits(value, hints[name]):
            allowed = re.sub(r"\b(?:typing|lightning|collections|datetime|pathlib)[\w.]*\.", "", str(hints[name]))
            problems.append(
                f"trainer.{name}: got {value!r}; allowed: {allowed.removeprefix('<class ').removesuffix('>')}"
            )
    if problems:
        raise InputError(problems)


def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or _MAX_TIME.match(value) is not None


def _fits(value: Any, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True)).validate_python(value)
    except pydantic.ValidationError:
        return False
    return True


def load_recipe(recipe: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, what it extends and overrides, and check all of it.

    Paths of data files that are not a card's are made absolute, so that the resolved recipe means the same everywhere.

    Args:
        recipe: Name of a shipped recipe, or a file.
        overrides: `key=value`, applied last.

    Raises:
        InputError: Every problem, with its path.
    """
    extending = [override for override in overrides if override.partition("=")[0].split(".")[0].strip() == "extends"]
    if extending:
        raise InputError(
            f"override '{extending[0]}': extends: stands in a recipe file only; it cannot be overridden; allowed: "
            "a file of your own that extends those recipes"
        )
    data = apply_overrides(resolve_extends(recipe, search=recipes_dir()), overrides)
    checked = validate(Recipe, _with_head_properties(data), where=f"recipe '{recipe}'")
    datasets = {name: _with_absolute_paths(config) for name, config in checked.data.items()}
    return checked.model_copy(update={"data": datasets})


def recipe_name(recipe: str | Path) -> str:
    """What a run of this recipe is called by default: `quickstart`, `finetune-rmd17-aspirin`."""
    path = Path(recipe)
    parts = (path.stem,) if path.is_absolute() or path.suffix else path.parts
    return "-".join(part for part in parts if part not in (".", ".."))


def _with_head_properties(data: dict[str, Any]) -> dict[str, Any]:
    """A head of many properties reads its task's unless it says otherwise: `head: {kind: tensor}` is enough."""
    tasks = data.get("tasks")
    if not isinstance(tasks, dict):
        return data
    filled = {}
    for name, task in tasks.items():
        filled[name] = task
        if isinstance(task, dict) and isinstance(task.get("head"), dict) and "property" in task:
            head = task["head"]
            if head.get("kind") in HEADS_OF_MANY_PROPERTIES:
                filled[name] = {**task, "head": {"property_name": task["property"], **head}}
    return {**data, "tasks": filled}


def _with_absolute_paths(config: DatasetConfig) -> DatasetConfig:
    changes: dict[str, Any] = {}
    source = config.source
    if isinstance(source, dict):
        changes["source"] = {split: _absolute_all(paths) for split, paths in source.items()}
    elif source is not None:
        changes["source"] = _absolute_all(source)
    if config.card is not None and config.card.endswith((".yaml", ".yml")):
        changes["card"] = _absolute(config.card)
    if config.isolated_atoms is not None and config.isolated_atoms.source is not None:
        atoms = config.isolated_atoms.model_copy(update={"source": _absolute(config.isolated_atoms.source)})
        changes["isolated_atoms"] = atoms
    return config.model_copy(update=changes) if changes else config


def _absolute_all(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return _absolute(paths) if isinstance(paths, str) else tuple(_absolute(path) for path in paths)


def _absolute(path: str) -> str:
    return path if path.startswith(PACKAGE_PREFIX) else str(Path.cwd() / Path(path).expanduser())
