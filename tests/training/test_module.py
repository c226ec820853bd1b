"""Training for real, on a small model: any mix of objectives, averaged weights, exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from foundation import compilation
from foundation.compilation import CompiledModel
from foundation.data.graph import AtomGraph, collate
from foundation.data.module import GraphDataModule
from foundation.data.sampler import BatchConfig
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.training import module as training_module
from foundation.training.ema import EmaConfig
from foundation.training.evaluation import evaluate
from foundation.training.module import FoundationModule, derived_seed
from foundation.training.objectives import DenoisingConfig, MaskedAtomsConfig, SupervisedConfig, build_objectives
from foundation.training.optim import AdamWConfig, MuonConfig, OptimizerConfig
from foundation.training.schedule import ScheduleConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

MakeModel = Callable[[], FoundationModel]
MakeData = Callable[[], GraphDataModule]
MIX = {
    "energy": SupervisedConfig(property="energy", weight=1.0),
    "forces": SupervisedConfig(property="forces", weight=4.0, data=("first",)),
    "noise": DenoisingConfig(weight=0.5, sigma=0.05),
    "mask": MaskedAtomsConfig(weight=0.2, every=2),
}


def make_module(
    model: FoundationModel,
    *,
    objectives: dict[str, Any] = MIX,
    optimizer: OptimizerConfig | None = None,
    ema: EmaConfig | None = None,
) -> FoundationModule:
    """A module that trains on the two data sets."""
    names = ("first", "second")
    return FoundationModule(
        model,
        build_objectives(objectives, model=model, dataset_names=names),
        optimizer=optimizer or AdamWConfig(learning_rate=0.02),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=60),
        ema=ema,
        dataset_names=names,
        seed=11,
    )


def make_trainer(*, callbacks: list[Callback] | None = None, **arguments: Any) -> Trainer:
    """A quiet trainer on the CPU."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks or []),
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        callbacks=callbacks or [],
        **{"log_every_n_steps": 1, **arguments},
    )


class RecordMetrics(Callback):
    """Keeps what was logged at the end of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_any_mix_of_objectives_learns_together(make_model: MakeModel, make_data: MakeData) -> None:
    record = RecordMetrics()
    make_trainer(max_epochs=14, log_every_n_steps=4, gradient_clip_val=10.0, callbacks=[record]).fit(
        make_module(make_model()), datamodule=make_data()
    )
    first, last = record.epochs[0], record.epochs[-1]
    assert last["train/loss"] < 0.8 * first["train/loss"]
    for name in ("energy", "forces"):
        assert last[f"train/{name}_loss"] < first[f"train/{name}_loss"]
    assert last["train/first/forces_mae_eV_per_A"] < first["train/first/forces_mae_eV_per_A"]
    assert {"val/second/energy_mae_eV", "val/second/position_noise_mae_A", "val/first/masked_element_accuracy"} <= set(
        last
    )
    assert "val/second/forces_mae_eV_per_A" not in last
    for stage in ("train", "val"):
        total = sum(config.weight * last[f"{stage}/{name}_loss"] for name, config in MIX.items())
        assert last[f"{stage}/loss"] == pytest.approx(total, rel=1e-5)


def test_objectives_of_one_view_share_one_forward_pass(make_model: MakeModel, graphs: list[AtomGraph]) -> None:
    model = make_model()
    passes: list[int] = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    module = make_module(model)
    batch = collate(graphs[1:3])
    for step, expected in ((0, 2), (1, 2)):
        passes.clear()
        sums = module._compare(batch, step=step, training=True, metrics=module.train_metrics)
        assert len(passes) == expected
        assert (sums[1] > 0).tolist() == [True, True, True, step % 2 == 0]


def test_the_rehearsal_of_the_fullest_batches_changes_nothing(
    make_model: MakeModel, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to devices with a memory of their own, but runs on any."""
    whole, compare = [], FoundationModule._compare

    def watched(self: FoundationModule, batch: AtomGraph, **named: Any) -> Tensor:
        sizes.append(batch.num_graphs)
        return compare(self, batch, **named)

    monkeypatch.setattr(FoundationModule, "_compare", watched)
    for kinds in ((), ("cpu",)):
        sizes: list[int] = []
        monkeypatch.setattr(training_module, "REHEARSING", kinds)
        module = make_module(make_model())
        torch.manual_seed(0)
        make_trainer(max_epochs=2).fit(module, datamodule=make_data())
        whole.append((sizes, [parameter.detach().clone() for parameter in module.parameters()]))
    (without, expected), (rehearsed, found) = whole
    assert rehearsed[0] == max(without)
    assert rehearsed[len(rehearsed) - len(without) :] == without
    assert len(rehearsed) > len(without)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_a_batch_that_does_not_fit_into_memory_is_said_before_the_first_step(
    make_model: MakeModel, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_module, "REHEARSING", ("cpu",))
    monkeypatch.setattr(FoundationModule, "_compare", no_memory)
    with pytest.raises(
        InputError, match=r"batch: one of \d+ structures with \d+ atoms, .* not fit into the memory of cpu"
    ):
        make_trainer(max_epochs=2).fit(make_module(make_model()), datamodule=make_data())


def test_a_wrong_compiled_path_is_refused_before_the_first_step(
    make_model: MakeModel, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[frozenset[str]] = []

    def wrong_forces(model: FoundationModel, asked: frozenset[str], *, create_graph: bool, cuda_graphs: bool) -> Any:
        """Stands in for the compiler; evaluated by the stand-in below."""
        del model, create_graph
        assert not cuda_graphs
        return lambda *_: asked

    def evaluate(model: FoundationModel, function: Any, graph: AtomGraph, asked: frozenset[str]) -> dict[str, Tensor]:
        assert function() == asked
        checked.append(asked)
        outputs = dict(model(graph, properties=asked, create_graph=True))
        if "forces" in asked:
            outputs["forces"] = outputs["forces"] * 1.001
        return outputs

    monkeypatch.setattr(compilation, "compiled", wrong_forces)
    monkeypatch.setattr(compilation, "_evaluate", evaluate)
    model = make_model()
    module = make_module(model)
    module.compiled = CompiledModel(model)
    trainer = make_trainer(max_epochs=1)
    with pytest.raises(InputError, match=r"compile: 'forces' differs from the eager path by 1\.0e-03"):
        trainer.fit(module, datamodule=make_data())
    assert trainer.global_step == 0

    checked.clear()
    module = make_module(model)
    module.compiled = CompiledModel(model, fallback="eager")
    with pytest.warns(UserWarning, match="going on without"):
        make_trainer(max_steps=2).fit(module, datamodule=make_data())
    # Every set of properties that any step asks for was looked at once: the clean views and the noisy one.
    assert len(checked) >= 2
    assert any("position_noise" in asked for asked in checked)


class RecordWeights(Callback):
    """Keeps a parameter after every optimizer step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        del trainer
        self.weights.append(pl_module.model.backbone.conditioning.element.detach().clone())


def test_the_average_follows_the_raw_weights_and_validation_uses_it(make_model: MakeModel, make_data: MakeData) -> None:
    module = make_module(make_model(), ema=EmaConfig(decay=0.6))
    expected = module.model.backbone.conditioning.element.detach().clone()
    record = RecordWeights()
    data = make_data()
    trainer = make_trainer(max_epochs=3, callbacks=[record])
    trainer.fit(module, datamodule=data)
    for count, raw in enumerate(record.weights, start=1):
        decay = min(0.6, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * raw
    average = module.average
    assert average is not None
    torch.testing.assert_close(average.average["backbone.conditioning.element"], expected)
    assert torch.equal(module.model.backbone.conditioning.element.detach(), record.weights[-1])
    held_back = {"first": data.graphs("first", "val")}
    averaged, raw = make_model(), copy.deepcopy(module.model)
    averaged.load_state_dict(average.state())
    bounds = BatchConfig(max_structures=3)
    found, other = (
        evaluate(model, held_back, batch=bounds, device="cpu").metrics["first"]["forces"] for model in (averaged, raw)
    )
    logged = float(trainer.callback_metrics["val/first/forces_mae_eV_per_A"])
    assert logged == pytest.approx(found["mae"], rel=1e-5)
    assert logged != pytest.approx(other["mae"], rel=1e-3)
    with average.applied():
        assert torch.equal(module.model.backbone.conditioning.element, average.average["backbone.conditioning.element"])
    assert torch.equal(module.model.backbone.conditioning.element.detach(), record.weights[-1])


@pytest.mark.parametrize("optimizer", [AdamWConfig(learning_rate=0.02), MuonConfig()], ids=lambda c: c.kind)
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    optimizer: OptimizerConfig, make_model: MakeModel, make_data: MakeData, tmp_path: Path
) -> None:
    def train(checkpoint: Path | None, callbacks: list[Callback]) -> tuple[FoundationModule, Trainer, dict[str, float]]:
        record = RecordMetrics()
        module = make_module(make_model(), optimizer=optimizer, ema=EmaConfig(decay=0.9))
        trainer = make_trainer(max_steps=9, log_every_n_steps=4, gradient_clip_val=5.0, callbacks=[*callbacks, record])
        trainer.fit(module, datamodule=make_data(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return module, trainer, record.epochs[-2]  # after step 8, the last that was logged

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    straight, trainer, logged = train(None, [keep])
    assert {"train/loss", "train/first/forces_mae_eV_per_A", "val/loss"} <= logged.keys()
    for step in (4, 6):  # an epoch has 4 steps: once at its end, once amid the next and what will be logged at step 8
        resumed, again, logged_again = train(tmp_path / f"step={step}.ckpt", [])
        assert again.global_step == trainer.global_step == 9
        assert resumed.batches_seen == straight.batches_seen
        for name, value in straight.model.state_dict().items():
            assert torch.equal(value.nan_to_num(), resumed.model.state_dict()[name].nan_to_num()), (step, name)
        assert straight.average is not None
        assert resumed.average is not None
        for name, value in straight.average.average.items():
            assert torch.equal(value, resumed.average.average[name]), (step, name)
        states = trainer.optimizers[0].state_dict(), again.optimizers[0].state_dict()
        assert states[0]["param_groups"] == states[1]["param_groups"]
        for number, moments in states[0]["state"].items():
            for name, value in moments.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1]["state"][number][name]))
        # The straight run also remembers what only its earlier rows held.
        assert {"train/loss", "train/first/forces_mae_eV_per_A", "val/loss"} <= logged_again.keys()
        assert logged_again.items() <= logged.items()


def test_randomness_depends_on_seed_rank_step_and_stream_only() -> None:
    seeds = {
        derived_seed(seed, rank, step, stream)
        for seed in (0, 1)
        for rank in (0, 1)
        for step in (0, 1)
        for stream in ("noise", "mask")
    }
    assert len(seeds) == 16
    assert derived_seed(3, 1, 7, "noise") == derived_seed(3, 1, 7, "noise")


def test_batches_without_any_label_of_a_task_change_nothing_but_do_not_stop_training(
    make_model: MakeModel, graphs: list[AtomGraph]
) -> None:
    without_forces = [graphs[index] for index in (0, 3, 6, 9)]
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    objectives = {"forces": SupervisedConfig(property="forces", weight=1.0)}
    module = make_module(model, objectives=objectives)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, DataLoader(without_forces, batch_size=2, collate_fn=collate))  # type: ignore[arg-type]
    assert trainer.global_step == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


@pytest.mark.parametrize(("log_every", "stage"), [(1, "train"), (50, "val")])
def test_a_loss_that_is_not_finite_stops_the_run(
    log_every: int, stage: str, make_model: MakeModel, make_data: MakeData
) -> None:
    module = make_module(make_model())
    with torch.no_grad():
        module.model.backbone.conditioning.element.fill_(torch.inf)
    expected = rf"the {stage} loss is not finite after step \d: 'energy' \((nan|inf)\).*lower optimizer.learning_rate"
    with pytest.raises(FloatingPointError, match=expected):
        make_trainer(max_epochs=1, log_every_n_steps=log_every).fit(module, datamodule=make_data())


def test_labels_that_the_model_cannot_give_are_named_at_the_end_of_an_epoch(
    make_model: MakeModel, graphs: list[AtomGraph]
) -> None:
    labelled = [graph.clone() for graph in graphs[:4]]
    for graph in labelled:  # of molecules
        graph.targets = {**graph.targets, "stress": torch.zeros(1, 3, 3, dtype=torch.float64)}
        graph.masks = {**graph.masks, "stress": torch.ones(1, dtype=torch.bool)}
    tasks = {name: SupervisedConfig(property=name, weight=1.0) for name in ("energy", "stress")}
    module = make_module(make_model(), objectives=tasks)
    with pytest.raises(FloatingPointError) as caught:
        make_trainer(max_epochs=1, log_every_n_steps=50).fit(
            module,
            DataLoader(labelled, batch_size=2, collate_fn=collate),  # type: ignore[arg-type]
        )
    message = str(caught.value)
    assert message.startswith("the train loss is not finite after step 2: 'stress' (nan); 'stress': labels that")
    assert "do not repeat in all three directions" in message
    assert "'energy'" not in message
    assert "learning_rate" not in message


def test_inference_mode_is_refused(make_model: MakeModel, make_data: MakeData) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(InputError, match=r"trainer.inference_mode: got true; allowed: false"):
        trainer.validate(make_module(make_model()), datamodule=make_data())


def test_several_processes_need_a_strategy_that_minds_unused_heads(make_model: MakeModel) -> None:
    module = make_module(make_model())
    for strategy, fine in (("ddp", False), ("ddp_find_unused_parameters_true", True)):
        module.trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, barebones=True)
        if fine:
            module.setup("fit")
        else:
            with pytest.raises(InputError, match=r"trainer.strategy: .*allowed: ddp_find_unused_parameters_true"):
                module.setup("fit")


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_a_precision_that_loses_forces_or_weights_is_refused(make_model: MakeModel, precision: str) -> None:
    module = make_module(make_model())
    module.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, barebones=True)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=rf"trainer.precision: got '{precision}'; allowed: 32-true, 64-true, bf16-mixed"
    ):
        module.setup("fit")


def test_bf16_trains_with_losses_and_weights_in_higher_precision(make_model: MakeModel, make_data: MakeData) -> None:
    module = make_module(make_model())
    make_trainer(max_steps=2, precision="bf16-mixed").fit(module, datamodule=make_data())
    assert {parameter.dtype for parameter in module.model.parameters()} == {torch.float32}
    assert all(bool(parameter.isfinite().all()) for parameter in module.model.parameters())
