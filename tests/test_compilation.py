"""Compiled paths: the real compiler on a small model, and what is refused when a path is wrong."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation import compilation
from foundation.compilation import CompileConfig, CompiledModel
from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.errors import InputError
from foundation.model import FoundationModel

MakeModel = Callable[..., FoundationModel]
ASKED = ("energy", "forces")


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> FoundationModel:
    return make_model({"energy": {"kind": "energy"}})


@pytest.fixture(scope="module")
def graph() -> AtomGraph:
    positions = np.random.default_rng(0).normal(0, 0.1, (4, 3)) + np.eye(4, 3) * 1.2
    one = build_graph(positions=positions, atomic_numbers=[6, 1, 8, 1], total_charge=0.0, spin_multiplicity=1)
    return collate([with_neighbors(one, 4.0)])


@pytest.mark.ci
def test_compiled_steps_of_any_size_equal_eager_ones_and_compile_at_most_three_times(repository: Path) -> None:
    # Two threads on a busy machine must not wait for each other by spinning.
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_WAIT_POLICY": "passive"}
    script = repository / "tests" / "compiled_model.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    figures = {tuple(line.split()[:-1]): float(line.split()[-1]) for line in done.stdout.splitlines()}
    assert figures.pop(("compiled",)) <= 3, done.stdout
    assert figures.pop(("levels", "compiled")) == 1, done.stdout
    assert figures.pop(("repeated", "gradients")) == 0.0, done.stdout
    assert figures.pop(("calculator", "compiled")) == 1, done.stdout
    allowed = {"calculator": 1e-10, "slope": 1e-6}
    for what, error in figures.items():
        assert error < allowed.get(what[0], 1e-4), (what, error)
    assert len(figures) == 35


def wrong(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[..., object]:
    """What stands in for the compiler: the eager function, its outputs changed."""

    def compiled(
        model: FoundationModel, asked: frozenset[str], *, create_graph: bool, cuda_graphs: bool
    ) -> Callable[..., object]:
        assert not cuda_graphs, "a CPU has none"

        def call(positions: Tensor, strain: object, tensors: object, num_graphs: int, width: int) -> dict[str, Tensor]:
            del strain, tensors, num_graphs, width
            graph = build_graph(
                positions=positions.detach().numpy(), atomic_numbers=[6, 1, 8, 1], total_charge=0.0, spin_multiplicity=1
            )
            batch = collate([with_neighbors(graph, model.cutoff)])
            return change(dict(model(batch, properties=asked, create_graph=create_graph)))

        return call

    return compiled


def shifted_forces(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**outputs, "forces": outputs["forces"] * (1 + 1e-3)}


def cut_gradients(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Right forces whose dependence on the weights is 1.2 % too small: what a naive trace gives."""
    forces = outputs["forces"]
    return {**outputs, "forces": forces.detach() * 0.012 + forces * 0.988}


def test_a_path_that_is_right_passes(model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiled", wrong(lambda outputs: outputs))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = CompiledModel(model)(graph, properties=ASKED, create_graph=True)
    expected = model(graph, properties=ASKED, create_graph=True)
    assert torch.equal(found["forces"], expected["forces"])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_wrong_forces_are_refused(model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiled", wrong(shifted_forces))
    for create_graph in (True, False):
        with pytest.raises(InputError, match=r"compile: 'forces' differs from the eager path by 1\.0e-03 of its size"):
            CompiledModel(model)(graph, properties=ASKED, create_graph=create_graph)


def test_right_forces_with_wrong_gradients_of_weights_are_refused(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "compiled", wrong(cut_gradients))
    with pytest.raises(InputError, match=r"compile: the gradient of weight '.*' differs from the eager path"):
        CompiledModel(model)(graph, properties=ASKED, create_graph=True)
    # Nothing is differentiated at inference: there the path is right.
    CompiledModel(model)(graph, properties=ASKED)


def test_what_is_compiled_anew_for_other_sizes_is_compared_too(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right for the size that came first, wrong in the code that is made when another one comes."""
    made = 0

    def compiled(model: FoundationModel, asked: frozenset[str], **_: object) -> Callable[..., object]:
        def call(positions: Tensor, strain: object, tensors: object, num_graphs: int, width: int) -> dict[str, Tensor]:
            nonlocal made
            del positions, strain, tensors, width
            made = max(made, num_graphs)
            outputs = dict(model(collate([graph] * num_graphs), properties=asked, create_graph=True))
            return outputs if num_graphs == 1 else shifted_forces(outputs)

        return call

    monkeypatch.setattr(compilation, "compiled", compiled)
    monkeypatch.setattr(compilation, "_compilations", lambda: made)
    strict, allowed = CompiledModel(model), CompiledModel(model, fallback="eager")
    for path in (strict, allowed):
        made = 0
        path(graph, properties=ASKED)
        assert made == 1
        path(graph, properties=ASKED)
    two = collate([graph] * 2)
    with pytest.warns(UserWarning, match="'forces' differs from the eager path"):
        found = allowed(two, properties=ASKED)
    assert torch.equal(found["forces"], model(two, properties=ASKED)["forces"])
    made = 1
    with pytest.raises(InputError, match="'forces' differs from the eager path"):
        strict(two, properties=ASKED)


def test_views_that_wait_to_be_differentiated_survive_a_comparison(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One backward pass for all views of a batch; the second is compiled anew, and compared, while the first waits."""
    path, weights = CompiledModel(model), list(model.parameters())

    def keeping_weights(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """As compiled code does; eager operators keep what they made of them."""
        nothing = 0.0 * torch.stack([weight.square().sum() for weight in weights]).sum()
        return {name: values + nothing for name, values in outputs.items()}

    monkeypatch.setattr(compilation, "compiled", wrong(keeping_weights))
    monkeypatch.setattr(compilation, "_compilations", lambda: 0)
    for properties in (ASKED, ("energy",)):
        path.check(graph, properties=properties, create_graph=True)

    def gradients(views: list[dict[str, Tensor]]) -> list[Tensor]:
        total = torch.stack([values.double().square().sum() for view in views for values in view.values()]).sum()
        return list(torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True))

    first = path(graph, properties=ASKED, create_graph=True)
    counts = itertools.count()
    monkeypatch.setattr(compilation, "_compilations", lambda: next(counts))
    second = path(graph, properties=("energy",), create_graph=True)
    eager = [model(graph, properties=properties, create_graph=True) for properties in (ASKED, ("energy",))]
    for found, expected in zip(gradients([first, second]), gradients(eager), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_compiler_that_fails_for_other_sizes_is_one_message_or_a_warning(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(model: FoundationModel, asked: frozenset[str], **_: object) -> Callable[..., object]:
        def call(positions: Tensor, strain: object, tensors: object, num_graphs: int, width: int) -> dict[str, Tensor]:
            del positions, strain, tensors, width
            if num_graphs > 1:
                raise RuntimeError("recompile_limit reached")
            return dict(model(graph, properties=asked))

        return call

    monkeypatch.setattr(compilation, "compiled", compiled)
    two = collate([graph] * 2)
    strict, allowed = CompiledModel(model), CompiledModel(model, fallback="eager")
    for path in (strict, allowed):
        path(graph, properties=ASKED)
    with pytest.raises(
        InputError, match=r"cannot be compiled here: RuntimeError: recompile_limit reached; allowed: not"
    ):
        strict(two, properties=ASKED)
    with pytest.warns(UserWarning, match="recompile_limit reached; going on without"):
        found = allowed(two, properties=ASKED)
    assert torch.equal(found["forces"], model(two, properties=ASKED)["forces"])
    assert allowed(two, properties=ASKED).keys() == set(ASKED)


def test_a_compiler_that_fails_is_one_message_or_a_warning(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(compilation, "compiled", wrong(broken))
    with pytest.raises(InputError, match=r"cannot be compiled here: RuntimeError: no C\+\+ compiler; allowed: not to"):
        CompiledModel(model)(graph, properties=ASKED)
    allowed = CompiledModel(model, fallback="eager")
    with pytest.warns(UserWarning, match="going on without"):
        found = allowed(graph, properties=ASKED)
    assert torch.equal(found["forces"], model(graph, properties=ASKED)["forces"])
    assert allowed(graph, properties=ASKED).keys() == set(ASKED)


def test_what_a_killed_compiler_left_half_written_is_removed_and_made_anew(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    files = [tmp_path / "cache" / "one.main.so", tmp_path / "cache" / "two.main.so"]
    for file in (*files, tmp_path / "elsewhere.so"):
        file.write_bytes(b"\x7fELF")

    def opened(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        for file in files:
            if file.exists():
                ctypes.CDLL(str(file))
        return outputs

    monkeypatch.setattr(compilation, "compiled", wrong(opened))
    found = CompiledModel(model)(graph, properties=ASKED)
    assert torch.equal(found["forces"], model(graph, properties=ASKED)["forces"])
    assert not any(file.exists() for file in files)
    files.append(tmp_path / "elsewhere.so")
    with pytest.raises(InputError, match=r"cannot be compiled here: OSError: .*elsewhere\.so: file too short"):
        CompiledModel(model)(graph, properties=ASKED)
    assert files[-1].exists()


def test_compiling_is_off_unless_asked_for() -> None:
    assert CompileConfig() == CompileConfig(enabled=False, fallback="refuse")


def test_cuda_graphs_are_given_up_where_batches_have_many_sizes(
    model: FoundationModel, graph: AtomGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def compiled(*_: object, cuda_graphs: bool, **__: object) -> Callable[..., object]:
        made.append(cuda_graphs)
        return lambda *_: {}

    monkeypatch.setattr(compilation, "compiled", compiled)
    monkeypatch.setattr(compilation, "difference", lambda *_, **__: None)
    monkeypatch.setattr(compilation, "MOST_RECORDED", 2)
    monkeypatch.setattr(CompiledModel, "_records", lambda self: self.cuda_graphs)
    stands_in = CompiledModel(model)
    sizes = [collate([graph] * number) for number in (1, 2, 1, 2)]
    for batch in sizes:
        stands_in.check(batch, properties=ASKED)
    assert made == [True]
    for batch in (collate([graph] * 3), *sizes):
        stands_in.check(batch, properties=ASKED)
    assert made == [True, False]


def test_cells_of_a_model_with_electrostatics_are_refused_before_anything_is_compiled(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model({"energy": {"kind": "energy"}, "charges": {"kind": "charges"}}, electrostatics=True)
    crystal = build_graph(
        positions=np.zeros((1, 3)),
        atomic_numbers=[6],
        total_charge=0.0,
        spin_multiplicity=1,
        cell=2.5 * np.eye(3),
        pbc=[True] * 3,
    )
    batch = collate([with_neighbors(crystal, 4.0)])
    monkeypatch.setattr(compilation, "compiled", None)
    with pytest.raises(InputError, match=r"compile: model.electrostatics sums over waves.*fallback: eager"):
        CompiledModel(model)(batch, properties=ASKED)
    with pytest.warns(UserWarning, match=r"going on without"):
        found = CompiledModel(model, fallback="eager")(batch, properties=ASKED)
    assert torch.equal(found["forces"], model(batch, properties=ASKED)["forces"])
