"""Compiled forward passes, derivatives included, that are refused unless they reproduce the eager ones.

One call, energies, forces and all, is traced whole (`trace_autograd_ops`), so that forces stay differentiable and the
gradients of weights come out right. Compiling the energy alone and differentiating outside cannot be trained, and a
naive trace of the forces gives gradients of weights that are wrong by a per cent while energies and forces are exact.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

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

LARGEST_ERROR = 1e-4
"""Of an output on a compiled path against the eager one, relative to its norm."""
LARGEST_GRADIENT_ERROR = 1e-3
"""The same for the gradient of a weight, whose float32 rounding is larger; naive traces are wrong by a per cent."""
NOISE_FACTOR = 20.0
"""How many times the rounding error of the eager path the compiled one may differ from it, below `LARGEST_ERROR`."""
SMALLEST_ERROR = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Differences that are allowed in any case."""
SHAKE = 0.3
"""How far weights are moved for the comparison: fresh readouts are zero, and zero forces compare equal to anything."""
MOST_RECORDED = 48
"""Sizes of batches whose kernels are recorded on a CUDA device. Recording takes three steps' time and keeps their
memory; where more sizes occur, as in mixtures of many molecules, it does not pay."""
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

    Batches of one size compile once, batches of changing sizes twice: the second time for all sizes. New code is
    checked each time.

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
        outputs = _evaluate(self.model, function, graph, asked)
        if _compilations() == before:
            return outputs
        # Compiled anew for sizes that change: other code, which nobody has looked at yet.
        if not self._is_right(function, graph, asked, create_graph=create_graph):
            self._functions[asked, create_graph] = None
            return self.model(graph, properties=asked, create_graph=create_graph)
        return _evaluate(self.model, function, graph, asked)

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
            if isinstance(error, InputError | KeyboardInterrupt | MemoryError | torch.OutOfMemoryError):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            problem = f"this model cannot be compiled here: {type(error).__name__}: {reason}"
            if self.model.has_electrostatics:
                problem = (
                    f"these charges look at the data while they are found, which cannot be compiled yet ({reason})"
                )
        if problem is None:
            return True
        self._refuse(problem)
        return False

    def _compared(
        self, function: _Function, graph: AtomGraph, asked: frozenset[str], *, create_graph: bool
    ) -> str | None:
        """What is wrong with a function, if anything; it is compiled again where files of the cache are broken."""
        problem = None
        with _shaken(self.model):
            for _ in range(MOST_BROKEN_FILES + 1):
                try:
                    for _ in range(RUNS_UNTIL_REPLAY if self._records() else 1):
                        problem = problem or _difference(self.model, function, graph, asked, create_graph=create_graph)
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

    traced = torch.compile(whole, fullgraph=True, mode="reduce-overhead" if cuda_graphs else None)

    def call(
        positions: Tensor, strain: Tensor | None, tensors: dict[str, Tensor], num_graphs: int, max_neighbors: int
    ) -> dict[str, Tensor]:
        # Lightning's DDP would have the graph cut between buckets, which derivatives inside of it forbid.
        settings = {"trace_autograd_ops": True, "optimize_ddp": False}
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


@contextmanager
def _shaken(model: FoundationModel) -> Iterator[None]:
    """Within this context the weights are moved at random; afterwards they are what they were, bit for bit."""
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((SHAKE * noise).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept, strict=True):
                parameter.copy_(value)


def _difference(
    model: FoundationModel, function: _Function, graph: AtomGraph, asked: frozenset[str], *, create_graph: bool
) -> str | None:
    """What a function gets wrong, outputs first, then gradients of weights; None if nothing.

    How much two orders of the same sums may differ is measured: on the eager path in its own and in double precision.
    """
    dtype = next(model.parameters()).dtype
    precise = copy.deepcopy(model).double()
    outputs = model(graph, properties=asked, create_graph=create_graph)
    found = _evaluate(model, function, graph, asked)
    exact = precise(graph, properties=asked, create_graph=create_graph)
    for name in sorted(asked):
        what = f"'{name}'"
        problem = _compare(what, found[name], outputs[name], exact[name], dtype=dtype)
        if problem is not None:
            return problem
    if not create_graph:
        return None
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = _gradients(model, outputs), _gradients(precise, exact)
    compiled_gradients = _gradients(model, found)
    floor = 1e-3 * float(torch.stack([one.double().norm() for one in gradients[0]]).norm())
    for place, name in enumerate(names):
        eager, exact_one = gradients[0][place], gradients[1][place]
        what = f"the gradient of weight '{name}'"
        problem = _compare(
            what, compiled_gradients[place], eager, exact_one, dtype=dtype, largest=LARGEST_GRADIENT_ERROR, floor=floor
        )
        if problem is not None:
            return problem
    return None


def _gradients(model: FoundationModel, outputs: dict[str, Tensor]) -> list[Tensor]:
    """Of a random mixture of all outputs, each with the same share; zero where a weight has no part in them."""
    generator = torch.Generator().manual_seed(1)
    total = next(iter(outputs.values())).new_zeros((), dtype=torch.float64)
    for name in sorted(outputs):
        values = outputs[name].double()
        weights = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device)
        finite = torch.isfinite(values)
        size = values.detach()[finite].square().sum().sqrt().clamp(min=1e-12)
        total = total + torch.where(finite, weights * values, 0.0).sum() / size
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if one is None else one for parameter, one in zip(parameters, found, strict=True)
    ]


def _compare(
    what: str,
    found: Tensor,
    eager: Tensor,
    exact: Tensor,
    *,
    dtype: torch.dtype,
    largest: float = LARGEST_ERROR,
    floor: float = 1e-12,
) -> str | None:
    found, eager, exact = (one.detach().double() for one in (found, eager, exact))
    if found.shape != eager.shape or not torch.equal(torch.isfinite(found), torch.isfinite(eager)):
        return f"{what} has another shape or other undefined entries than on the eager path"
    finite = torch.isfinite(eager)
    size = max(float(eager[finite].norm()), floor)
    noise = float((eager - exact)[finite].norm()) / size
    error = float((found - eager)[finite].norm()) / size
    allowed = max(SMALLEST_ERROR.get(dtype, largest), min(largest, NOISE_FACTOR * noise))
    if error <= allowed:
        return None
    return f"{what} differs from the eager path by {error:.1e} of its size, allowed {allowed:.1e}"
