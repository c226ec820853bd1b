"""`foundation train`: check everything, start from another model if asked to, train, evaluate, write it all down."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from foundation.checkpoint import CardInfo, save_model
from foundation.checkpoint.card import write_card
from foundation.data.module import GraphDataModule
from foundation.electrostatics import describe_charged
from foundation.errors import InputError
from foundation.properties import get_property
from foundation.recipe import Recipe, RecipeStart, load_recipe, recipe_name
from foundation.report import write_report
from foundation.run.callbacks import make_callbacks
from foundation.run.checkpoint_files import CheckpointFiles, damage_of
from foundation.run.checks import charged_cells_in, check_ranks, check_references, learnt
from foundation.run.directory import RunDirectory
from foundation.run.ending import ending_of
from foundation.run.environment import check_environment, check_writable
from foundation.run.interruption import Interruption
from foundation.run.leakage import seen_in_training
from foundation.run.lock import RunLock
from foundation.run.loggers import make_loggers
from foundation.run.lost_processes import explained_losses
from foundation.run.plan import Plan, make_plan, prepare_data
from foundation.run.ranks import is_first_process, trainer_arguments, wait_for_all
from foundation.run.summary import summarise
from foundation.run.trainer_values import check_trainer_values, refusals_of_lightning
from foundation.run.wandb_log import check_wandb
from foundation.threads import set_threads
from foundation.training.evaluation import Report, evaluate

__all__ = ["train"]

PRETRAINING = "pretrain"


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    check_only: bool = False,
) -> Path:
    """Train as a recipe says.

    Args:
        recipe: Name of a shipped recipe, or a file.
        overrides: `key=value`.
        out: Run directory; `runs/<name of the recipe>` if None.
        resume: Go on with the run in `out`, or start it if there is none.
        check_only: Stop before training; nothing is written.

    Returns:
        The run directory.

    Raises:
        InputError: Recipe, data, model, run directory or the job's environment are at fault; nothing was written then.
        InterruptionError: A signal came; `resume` goes on.
    """
    checked = load_recipe(recipe, overrides=overrides)
    directory = RunDirectory(Path("runs") / recipe_name(recipe) if out is None else out)
    check_environment(checked.trainer)
    check_wandb(checked.wandb)
    check_writable(directory.path)
    with Interruption() as interruption:
        run_recipe(checked, directory, resume=resume, check_only=check_only, interruption=interruption)
    return directory.path


def run_recipe(
    recipe: Recipe, directory: RunDirectory, *, resume: bool, check_only: bool, interruption: Interruption
) -> None:
    """Train a checked recipe into a directory, which nobody else does at the same time.

    Raises:
        InputError: As `train`.
    """
    lock = RunLock(directory.path)
    with ExitStack() as held:
        if is_first_process() and directory.path.is_dir() and not check_only:
            held.enter_context(lock)
        if resume:
            if is_first_process():
                directory.check_resumable(recipe)
            interruption.has_begun = directory.path.is_dir() and not check_only
            if directory.is_finished(recipe):
                _say(f"{directory.path} is finished; nothing to do")
                return
        elif not check_only and is_first_process():
            directory.check_free()
        take = None if lock.is_held else partial(held.enter_context, lock)
        _run_checked(recipe, directory, take, resume=resume, check_only=check_only, interruption=interruption)


def _run_checked(
    recipe: Recipe,
    directory: RunDirectory,
    take_lock: Callable[[], object] | None,
    *,
    resume: bool,
    check_only: bool,
    interruption: Interruption,
) -> None:
    """Look through data and model, then train; `take_lock` takes the lock of a directory that was not there before."""
    _quieten_lightning()
    check_trainer_values(recipe.trainer)
    threads = set_threads(recipe.threads)
    data = prepare_data(recipe)
    check_ranks(recipe.trainer, data)
    plan = make_plan(recipe, data, start=None if recipe.init is None else _existing_start(recipe))
    _say(describe(plan))
    pretraining = _checked_pretraining(recipe)
    if pretraining is not None:
        learnt_before = [get_property(task.property) for task in pretraining.tasks.values()]
        known = frozenset(prop.derived_from or prop.name for prop in learnt_before)
        check_references(recipe, data, plan.model.scaling, known_elsewhere=known)
    if check_only:
        _say("the recipe and its data are in order; nothing was trained (--check)")
        return
    existed = directory.path.exists()
    if is_first_process():
        directory.make()
        if take_lock is not None:
            take_lock()
            directory.check_free()  # another program may have made it meanwhile
        directory.begin(recipe)
    interruption.has_begun = True
    try:
        _train_in(directory, recipe, data, plan, pretraining, resume=resume, threads=threads, interruption=interruption)
    except InputError:
        if is_first_process() and not existed:
            directory.remove_if_fresh()
        raise


def _train_in(
    directory: RunDirectory,
    recipe: Recipe,
    data: GraphDataModule,
    plan: Plan,
    pretraining: Recipe | None,
    *,
    resume: bool,
    threads: int,
    interruption: Interruption,
) -> None:
    if pretraining is not None:
        start = RunDirectory(directory.path / PRETRAINING)
        _say(f"pretraining into {start.path}")
        run_recipe(pretraining, start, resume=resume, check_only=False, interruption=interruption)
        wait_for_all()
        _say("fine-tuning from what was pretrained")
        plan = make_plan(recipe, data, start=str(start.path))
        _say("\n".join(plan.describe_start()))
    _fit_and_finish(plan, directory, resume=resume, threads=threads, interruption=interruption)


def _existing_start(recipe: Recipe) -> str | None:
    assert recipe.init is not None
    return recipe.init.source if isinstance(recipe.init.source, str) else None


def _checked_pretraining(recipe: Recipe) -> Recipe | None:
    """The recipe that is trained first, its data and model looked through; None if there is none."""
    if recipe.init is None or not isinstance(recipe.init.source, RecipeStart):
        return None
    source = recipe.init.source
    pretraining = load_recipe(source.recipe, overrides=source.overrides)
    if pretraining.init is not None and isinstance(pretraining.init.source, RecipeStart):
        raise InputError(f"init.from.recipe: '{source.recipe}' itself starts from a recipe; allowed: one such step")
    ours, theirs = recipe.model.backbone, pretraining.model.backbone
    if ours != theirs:
        raise InputError(
            f"init.from.recipe: the backbone of '{source.recipe}' is {theirs!r}, this recipe's is {ours!r}; "
            "they have to be equal (set it for both, or pass it on under init.from.overrides)"
        )
    make_plan(pretraining, prepare_data(pretraining), start=None)
    return pretraining


def describe(plan: Plan) -> str:
    """What trains: data, tasks, objectives, parameters."""
    lines = []
    for name in plan.data.dataset_names:
        counts = ", ".join(f"{len(plan.data.graphs(name, split))} {split}" for split in plan.data.splits(name))
        lines.append(f"data {name}: {counts}; {plan.data.resolved[name].level_of_theory}")
    lines += [
        f"task {name}: {task.property} of {', '.join(task.data)}, weight {task.weight:g}"
        for name, task in plan.recipe.tasks.items()
    ]
    objectives = {**plan.recipe.objectives, **plan.local_charges}
    lines += [f"objective {name}: {one.kind}, weight {one.weight:g}" for name, one in objectives.items()]
    parameters = sum(parameter.numel() for parameter in plan.model.parameters())
    trainable = sum(parameter.numel() for parameter in plan.model.parameters() if parameter.requires_grad)
    lines.append(
        f"model: {trainable:,} trainable of {parameters:,} parameters, cutoff {plan.model.cutoff:g} Å, "
        f"{plan.scaling.mean_neighbors:.1f} neighbours on average, heads: {', '.join(plan.model.config.heads)}"
    )
    lines += [
        f"charged cells: {counts.total()} of data {name} are periodic and carry a net charge: {what}"
        for name, counts in charged_cells_in(plan.data).items()
        if (what := describe_charged(counts, plan.model.cautions))
    ]
    lines += seen_in_training(plan.data)
    lines += [*_describe_validation(plan), *plan.describe_start()]
    return "\n".join(lines)


def _describe_validation(plan: Plan) -> list[str]:
    """What does not count in the choice of the checkpoint."""
    validation = plan.validation
    if not validation.counts:
        return ["validation: no labels, so the last weights become the model"]
    if not validation.without_labels:
        return []
    return [f"validation: no labels of {', '.join(validation.without_labels)}; not counted in the choice of weights"]


def _fit_and_finish(
    plan: Plan, directory: RunDirectory, *, resume: bool, threads: int, interruption: Interruption
) -> None:
    recipe = plan.recipe
    checkpoint = directory.checkpoints.newest(says=is_first_process()) if resume else None
    if checkpoint is not None:
        _say(f"going on from {checkpoint}")
    watchers = make_callbacks(plan, directory, interruption=interruption)
    trainer = Trainer(
        **trainer_arguments(recipe.trainer),
        callbacks=watchers.all,
        logger=make_loggers(recipe, directory, watchers.log, checkpoint=checkpoint),
        plugins=[CheckpointFiles()],
        default_root_dir=directory.path,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    with explained_losses(trainer), refusals_of_lightning():
        trainer.fit(plan.module, datamodule=plan.data, ckpt_path=checkpoint, weights_only=True)
    if not trainer.is_global_zero:
        return
    interruption.obey(where="after training, before its evaluation")
    ending = ending_of(trainer)
    kept, raw_state = _take_weights(plan, watchers.best)
    summary = summarise(plan, timing=watchers.timing, ending=ending, kept=kept, threads=threads)
    info = CardInfo(title=directory.path.name, summary=summary, evaluation={})
    save_model(plan.model, directory.path / "model", card_info=info, raw_state=raw_state)
    metrics = _evaluate(plan, directory, device=trainer.strategy.root_device)
    plan.model.cpu()
    write_card(plan.model, directory.path / "model" / "README.md", info=replace(info, evaluation=metrics))
    directory.write_json("summary.json", summary)
    _say(describe_errors(metrics))
    if recipe.report:
        _say(f"report: {write_report(directory.path)}")
    cut_short = ending.warning(is_pretraining=directory.path.name == PRETRAINING)
    if cut_short is not None:
        _say(cut_short)
    _say(f"done: {directory.path}")


def _take_weights(plan: Plan, best: ModelCheckpoint | None) -> tuple[str, dict[str, torch.Tensor] | None]:
    """Put the weights that become the model into it.

    Returns:
        Which they are, in words, and the raw state where averaged weights were taken.
    """
    module, average = plan.module, plan.module.average
    kept = "last"
    if plan.recipe.keep == "best" and best is not None and best.best_model_path:
        problem = damage_of(Path(best.best_model_path))
        if problem is not None:
            raise InputError(f"checkpoint '{best.best_model_path}': {problem}; allowed: keep=last with another --out")
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        if average is not None:
            average.load_state_dict(checkpoint["callbacks"][average.state_key])
        kept = f"lowest validation loss, after {checkpoint['global_step']} steps"
    if average is None:
        return kept, None
    raw_state = {name: value.detach().clone() for name, value in plan.model.state_dict().items()}
    plan.model.load_state_dict(average.state())
    return f"{kept}; moving average", raw_state


def _evaluate(plan: Plan, directory: RunDirectory, *, device: torch.device) -> dict[str, Report]:
    metrics: dict[str, Report] = {}
    wanted = learnt(plan.recipe)
    for split in ("val", "test"):
        graphs = {
            name: plan.data.graphs(name, split)
            for name in plan.data.dataset_names
            if wanted[name] and split in plan.data.splits(name)
        }
        if not graphs:
            continue
        evaluation = evaluate(plan.model, graphs, batch=plan.recipe.batch, device=device, properties=wanted)
        metrics[split] = evaluation.metrics
        directory.write_predictions(split, evaluation.predictions)
    directory.write_json("evaluation.json", metrics)
    return metrics


def describe_errors(metrics: dict[str, Report]) -> str:
    """A table of errors for people."""
    rows = [
        (split, dataset, prop, _figures(figures))
        for split, by_dataset in metrics.items()
        for dataset, by_property in by_dataset.items()
        for prop, figures in by_property.items()
    ]
    if not rows:
        return "no held-back labels to compare with"
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]) for row in rows
    )


def _figures(figures: dict[str, float | int | str]) -> str:
    unit = figures["unit"]
    parts = []
    for name, value in figures.items():
        if isinstance(value, float):
            parts.append(f"{name} {value:.5g}" + (f" {unit}" if name in ("mae", "rmse") and unit != "1" else ""))
    return ", ".join([*parts, f"{figures['count']} labels"])


def _quieten_lightning() -> None:
    """Leave out Lightning's advertisements and what is no news here; its warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", r"The number of training batches \(\d+\) is smaller than the logging interval")
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", r"The '\w+_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", r"The `srun` command is available on your system but is not used")


def _say(text: str) -> None:
    if is_first_process():
        print(text, file=sys.stderr, flush=True)
