"""Compiled forward passes, derivatives included, that are refused unless they reproduce the eager ones.

One call, energies, forces and all, is traced whole (`trace_autograd_ops`), so that forces stay differentiable and the
gradients of weights come out right. Compiling the energy alone and differentiating outside cannot be trained, and a
naive trace of the forces gives gradients of weights that are wrong by a per cent while energies and forces are exact.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import FunctionType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from foundation.compiled_check import difference, shaken
from foundation.compiler_cache import removed_half_written
from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.data.plain_graph import PlainGraph, padded_width, plain_tensors
from foundation.derive import DERIVED, Deformation, deformed, undeformed
from foundation.electrostatics import CellCautions
from foundation.electrostatics.pairs import atom_pairs
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig
from foundation.physics import D3Dispersion
from foundation.scaling import Scaling

__all__ = ["CompileConfig", "CompiledModel", "Forward"]

MOST_RECORDED = 48
"""Sizes of batches whose kernels are recorded on a CUDA device. Recording takes three steps' time and keeps their
memory; where more sizes occur, as in mixtures of many molecules, it does not pay."""
MOST_COMPILED = 16
"""Times that one set of properties is compiled, each for other sizes: three or four are usual."""
MOST_BROKEN_FILES = 20
"""Half-written files of the compiler's cache that are removed before that is called broken."""
RUNS_UNTIL_REPLAY = 3
"""CUDA graphs are warmed up in the first run, recorded in the second and replayed from the third on."""

logger = logging.getLogger(__name__)

_Function = Callable[[Tensor, Tensor | None, dict[str, Tensor], int, int], dict[str, Tensor]]


class CompileConfig(Config):
    """Whether training steps are compiled. Validation and evaluation stay eager.

    Attributes:
        enabled: Compile at the first step; takes a minute or more for each set of properties.
        fallback: What happens where compiling fails or does not reproduce the eager path: `refuse` ends the program,
            `eager` warns and goes on without.
        cuda_graphs: On a CUDA device, record the kernels of each size of batches and replay them with one call: what
            costs time there is to start hundreds of kernels. Given up where more than 48 sizes occur.
    """

    enabled: bool = False
    fallback: Literal["refuse", "eager"] = "refuse"
    cuda_graphs: bool = True


class Forward(Protocol):
    """What a model and its compiled form have in common."""

    def __call__(
        self, graph: AtomGraph, *, properties: Collection[str], create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Predict physical values, as `FoundationModel.forward`."""
        ...


class CompiledModel:
    """A model's forward pass, compiled for each set of properties and checked against the eager pass at its first use.

    Batches of one size compile once, batches of changing sizes twice: the second time for all sizes, but for single
    structures and single atoms, which compile once more each. New code is checked each time.

    Args:
        model: Stays the owner of the weights; changes of them are seen.
        fallback: As in `CompileConfig`.
        cuda_graphs: The same. Gradients of weights have to be done with before the next call: they may not add up over
            several.
    """

    def __init__(
        self, model: FoundationModel, *, fallback: Literal["refuse", "eager"] = "refuse", cuda_graphs: bool = True
    ) -> None:
        self.model = model
        self.fallback = fallback
        self.cuda_graphs = cuda_graphs
        self._sizes: set[tuple[int, ...]] = set()
        self._functions: dict[tuple[frozenset[str], bool], _Function | None] = {}

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.model.config

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.cutoff

    @property
    def properties(self) -> frozenset[str]:
        """What the model predicts."""
        return self.model.properties

    @property
    def scaling(self) -> Scaling:
        """Reference energies and scales."""
        return self.model.scaling

    @property
    def dispersion(self) -> D3Dispersion | None:
        """What its labels lack."""
        return self.model.dispersion

    @property
    def has_electrostatics(self) -> bool:
        """Whether its charges interact."""
        return self.model.has_electrostatics

    @property
    def cautions(self) -> CellCautions:
        """What is to be said of its predictions for periodic structures."""
        return self.model.cautions

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's weights."""
        return self.model.parameters()

    def __call__(
        self, graph: AtomGraph, *, properties: Collection[str], create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Predict physical values, as `FoundationModel.forward`.

        Raises:
            InputError: This machine or model cannot be compiled, or the result is not that of the eager path; not with
                `fallback: eager`.
        """
        asked = frozenset(properties)
        if not asked <= self.model.properties:
            return self.model(graph, properties=asked)  # which says what is wrong
        function = self.check(graph, properties=asked, create_graph=create_graph)
        if function is None:
            return self.model(graph, properties=asked, create_graph=create_graph)
        before = _compilations()
        outputs, problem = None, None
        try:
            outputs = _evaluate(self.model, function, graph, asked)
        except Exception as error:  # the compiler's, where it compiles anew for sizes that change
            if not removed_half_written(error):
                problem = self._of_compiler(error)
        if outputs is not None and _compilations() == before:
            return outputs
        if problem is not None:
            self._refuse(problem)
        # Compiled anew is other code, which nobody has looked at yet.
        elif self._is_right(function, graph, asked, create_graph=create_graph):
            return _evaluate(self.model, function, graph, asked)
        self._functions[asked, create_graph] = None
        return self.model(graph, properties=asked, create_graph=create_graph)

    def check(self, graph: AtomGraph, *, properties: Collection[str], create_graph: bool = False) -> _Function | None:
        """Compile for these properties unless that is done; None where the eager path is what remains.

        Raises:
            InputError: As when it is called.
        """
        if graph.num_levels > 1 and self.model.backbone.level_sharing < 1:
            self._refuse(
                f"a batch of {graph.num_levels} levels of theory with weights each (level_sharing) is taken apart, and "
                "that cannot be compiled; with mixture.batches: separate there are none"
            )
            return None
        if self.model.has_electrostatics and bool(graph.pbc.any()):
            self._refuse("model.electrostatics sums over waves, as many as cells ask for, which cannot be compiled yet")
            return None
        key = (frozenset(properties), create_graph)
        if self._records():
            self._sizes.add(self._size(graph))
            if len(self._sizes) > MOST_RECORDED:
                logger.info("more than %d sizes of batches: compiling once more, without CUDA graphs", MOST_RECORDED)
                self.cuda_graphs = False
                self._functions = {}
        if key not in self._functions:
            self._functions[key] = self._checked(graph, key[0], create_graph=create_graph)
        return self._functions[key]

    def _size(self, graph: AtomGraph) -> tuple[int, ...]:
        """What the shapes of all tensors of a batch depend on."""
        pairs = [int(graph.num_atoms_per_graph.square().sum())] if self.model.has_electrostatics else []
        return (graph.num_graphs, len(graph.positions), padded_width(graph.max_neighbors), *pairs)

    def _records(self) -> bool:
        """Whether functions that are compiled now become CUDA graphs."""
        return self.cuda_graphs and next(self.model.parameters()).is_cuda

    def _checked(self, graph: AtomGraph, asked: frozenset[str], *, create_graph: bool) -> _Function | None:
        """A compiled function that was compared with the eager one; None to go on without."""
        logger.info("compiling %s; this takes a minute or more", ", ".join(sorted(asked)))
        function = compiled(self.model, asked, create_graph=create_graph, cuda_graphs=self._records())
        return function if self._is_right(function, graph, asked, create_graph=create_graph) else None

    def _is_right(self, function: _Function, graph: AtomGraph, asked: frozenset[str], *, create_graph: bool) -> bool:
        """Whether a function does what the eager path does; false only where the program then goes on without."""
        try:
            problem = self._compared(function, graph, asked, create_graph=create_graph)
        except Exception as error:  # the compiler raises what its many parts raise
            problem = self._of_compiler(error)
        if problem is None:
            return True
        self._refuse(problem)
        return False

    def _of_compiler(self, error: Exception) -> str:
        """What to say of an exception of the compiler; others are raised again."""
        from torch._dynamo.exc import FailOnRecompileLimitHit

        if isinstance(error, InputError | MemoryError | torch.OutOfMemoryError):
            raise error
        if isinstance(error, FailOnRecompileLimitHit):
            return f"batches are of ever new sizes, and these properties were compiled {MOST_COMPILED} times already"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if self.model.has_electrostatics:
            return f"these charges look at the data while they are found, which cannot be compiled yet ({reason})"
        return f"this model cannot be compiled here: {type(error).__name__}: {reason}"

    def _compared(
        self, function: _Function, graph: AtomGraph, asked: frozenset[str], *, create_graph: bool
    ) -> str | None:
        """What is wrong with a function, if anything; it is compiled again where files of the cache are broken."""
        problem, evaluate = None, partial(_evaluate, self.model, function)
        with shaken(self.model):
            for _ in range(MOST_BROKEN_FILES + 1):
                try:
                    for _ in range(RUNS_UNTIL_REPLAY if self._records() else 1):
                        problem = problem or difference(self.model, evaluate, graph, asked, create_graph=create_graph)
                    return problem
                except Exception as error:
                    if not removed_half_written(error):
                        raise
        return f"more than {MOST_BROKEN_FILES} files of the compiler's cache are broken"

    def _refuse(self, problem: str) -> None:
        """Raise InputError, or warn where the program may go on without."""
        if self.fallback != "eager":
            raise InputError(f"compile: {problem}; allowed: not to compile, or fallback: eager to go on without")
        warnings.warn(f"compile: {problem}; going on without (fallback: eager)", stacklevel=3)


def _compilations() -> int:
    """How often torch has compiled anything in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def compiled(
    model: FoundationModel, asked: frozenset[str], *, create_graph: bool, cuda_graphs: bool = False
) -> _Function:
    """The whole of a forward pass as one traced function of tensors; compiled when it is first called."""
    import torch._dynamo
    import torch._inductor.config as inductor

    derived = bool(asked & DERIVED)

    def whole(
        positions: Tensor, strain: Tensor | None, tensors: dict[str, Tensor], num_graphs: int, max_neighbors: int
    ) -> dict[str, Tensor]:
        graph, moved = PlainGraph(tensors, num_graphs, max_neighbors), PlainGraph(tensors, num_graphs, max_neighbors)
        deformation = Deformation(positions, strain)
        moved.positions, moved.cell = deformed(graph, deformation)  # type: ignore[arg-type]
        outputs = model.differentiated(graph, moved, deformation, asked, create_graph=create_graph)  # type: ignore[arg-type]
        return outputs if create_graph or not derived else {name: values.detach() for name, values in outputs.items()}

    # Torch counts what it compiles for a code object, and all functions that are made here share one.
    own = FunctionType(whole.__code__.replace(), whole.__globals__, closure=whole.__closure__)
    traced = torch.compile(own, fullgraph=True, mode="reduce-overhead" if cuda_graphs else None)

    def call(
        positions: Tensor, strain: Tensor | None, tensors: dict[str, Tensor], num_graphs: int, max_neighbors: int
    ) -> dict[str, Tensor]:
        # Lightning's DDP would have the graph cut between buckets, which derivatives inside of it forbid.
        settings = {"trace_autograd_ops": True, "optimize_ddp": False, "recompile_limit": MOST_COMPILED}
        # Sizes are counted by `CompiledModel`; its threshold is higher than torch's.
        sizes_warned_of = inductor.patch({"triton.cudagraph_dynamic_shape_warn_limit": None})
        with torch._dynamo.config.patch(settings), sizes_warned_of, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = traced(positions, strain, tensors, num_graphs, max_neighbors)
        # The next replay writes over what this one gave.
        return {name: values.clone() for name, values in outputs.items()} if cuda_graphs else outputs

    return call


def _evaluate(
    model: FoundationModel, function: _Function, graph: AtomGraph, asked: frozenset[str]
) -> dict[str, Tensor]:
    with torch.set_grad_enabled(bool(asked & DERIVED) or torch.is_grad_enabled()):
        deformation = undeformed(graph, with_strain="stress" in asked)
        tensors, width = plain_tensors(graph, model.backbone.edge_fields)
        if model.has_electrostatics:
            tensors["pairs"] = atom_pairs(graph.num_atoms_per_graph, torch.ones_like(graph.pbc[:, 0]))
        return dict(function(deformation.positions, deformation.strain, tensors, graph.num_graphs, width))
