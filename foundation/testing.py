"""Contracts of physics that every backbone, head and accelerated path keeps.

Each takes a model in float64 and structures, and raises AssertionError with what was violated and by how much. Whoever
adds a backbone or a head runs all of them by listing it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from ase.data import atomic_masses
from jaxtyping import Float
from torch import Tensor

from foundation.data.graph import AtomGraph, build_graph, collate
from foundation.data.neighbors import with_neighbors
from foundation.heads.charges import ChargesConfig
from foundation.model import FoundationModel
from foundation.properties import PROPERTIES, Property

TOLERANCE = 1e-8
"""Relative, in float64, of every exact symmetry."""


def rebuild(
    graph: AtomGraph,
    *,
    cutoff: float,
    positions: np.ndarray | None = None,
    cell: np.ndarray | None = None,
    order: np.ndarray | None = None,
    field: np.ndarray | None = None,
) -> AtomGraph:
    """Make one structure anew with other positions, cell, order of atoms or external field; labels are dropped."""
    old = graph.positions.numpy() if positions is None else positions
    order = np.arange(len(old)) if order is None else order
    pbc = graph.pbc[0].numpy()
    return with_neighbors(
        build_graph(
            positions=old[order],
            atomic_numbers=graph.atomic_numbers.numpy()[order],
            total_charge=float(graph.total_charge),
            spin_multiplicity=int(graph.spin_multiplicity),
            cell=(graph.cell[0].numpy() if cell is None else cell) if pbc.any() else None,
            pbc=pbc,
            level_index=int(graph.level_index),
            external_field=external_field(graph) if field is None else field,
        ),
        cutoff,
    )


def external_field(graph: AtomGraph) -> Float[np.ndarray, " 3"]:
    """Of one structure, V/Å; zero where none is stated."""
    return graph.external_field[0].numpy() if "external_field" in graph else np.zeros(3)


def random_rotation(seed: int) -> Float[np.ndarray, "3 3"]:
    """A proper rotation, uniform."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    return matrix if np.linalg.det(matrix) > 0 else -matrix


def transform(prop: Property, values: Tensor, orthogonal: Float[Tensor, "3 3"]) -> Tensor:
    """What a property's values become when the structure is rotated or reflected (rows: graphs or atoms)."""
    if prop.form == "vector":
        return values @ orthogonal.T
    if prop.form in ("symmetric_matrix", "matrix"):
        return orthogonal @ values @ orthogonal.T
    return values * torch.linalg.det(orthogonal).round() if prop.parity == -1 else values


def predict(model: FoundationModel, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
    """Predictions of one structure or batch, detached."""
    batch = collate([graph]) if "slot_senders" not in graph else graph
    return {name: values.detach() for name, values in model(batch, properties=properties).items()}


def predict_each(
    model: FoundationModel, graphs: Sequence[AtomGraph], properties: Collection[str]
) -> list[dict[str, Tensor]]:
    """Predictions of several structures, made in one batch; that it changes nothing is a contract of its own."""
    found = predict(model, collate(list(graphs)), properties)
    sizes = [graph.positions.shape[0] for graph in graphs]
    parts = {name: values.split(sizes if PROPERTIES[name].level == "atom" else 1) for name, values in found.items()}
    return [{name: values[place] for name, values in parts.items()} for place in range(len(graphs))]


def _asked(model: FoundationModel, graph: AtomGraph) -> list[str]:
    """What the model predicts that is defined for this structure."""
    periodic = bool(graph.pbc.any())
    undefined = set()
    if not bool(graph.pbc.all()):
        undefined.add("stress")
    if periodic and model.head_kind("dipole") == "charges":
        undefined |= {"dipole", "quadrupole"}
    if periodic and model.head_kind("polarizability") == "charges":
        undefined.add("polarizability")
    return sorted(model.properties - undefined)


def assert_close(found: Tensor, expected: Tensor, what: str, *, tolerance: float = TOLERANCE) -> None:
    """Compare with a tolerance relative to the largest expected value or 1e-3, whichever is larger."""
    scale = max(1e-3, float(expected.abs().max()))
    error = float((found - expected).abs().max()) / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e}, allowed {tolerance:.0e}"


def check_orthogonal(model: FoundationModel, graph: AtomGraph, *, reflect: bool, seed: int = 0) -> None:
    """Rotated (or rotated and reflected) structures give rotated predictions; pseudoscalars flip, scalars stay."""
    orthogonal = random_rotation(seed) * (-1.0 if reflect else 1.0)
    moved = rebuild(
        graph,
        cutoff=model.cutoff,
        positions=graph.positions.numpy() @ orthogonal.T,
        cell=graph.cell[0].numpy() @ orthogonal.T,
        field=external_field(graph) @ orthogonal.T,
    )
    asked = _asked(model, graph)
    before, after = predict_each(model, [graph, moved], asked)
    matrix = torch.from_numpy(orthogonal)
    for name in asked:
        expected = transform(PROPERTIES[name], before[name].double(), matrix)
        assert_close(after[name].double(), expected, f"{'reflection' if reflect else 'rotation'} of {name}")


def check_translation(model: FoundationModel, graph: AtomGraph) -> None:
    """Nothing depends on where the structure is; a dipole is about the centre of mass. Not for ions in a field."""
    moved = rebuild(graph, cutoff=model.cutoff, positions=graph.positions.numpy() + np.array([13.7, -4.1, 101.3]))
    asked = _asked(model, graph)
    before, after = predict_each(model, [graph, moved], asked)
    for name in asked:
        assert_close(after[name], before[name], f"translation of {name}")


def check_permutation(model: FoundationModel, graph: AtomGraph, *, seed: int = 0) -> None:
    """The order of atoms does not matter."""
    order = np.random.default_rng(seed).permutation(graph.positions.shape[0])
    asked = _asked(model, graph)
    before, after = predict_each(model, [graph, rebuild(graph, cutoff=model.cutoff, order=order)], asked)
    for name in asked:
        expected = before[name][torch.from_numpy(order)] if PROPERTIES[name].level == "atom" else before[name]
        assert_close(after[name], expected, f"permutation of {name}")


def check_lattice_shift(model: FoundationModel, graph: AtomGraph, *, seed: int = 0) -> None:
    """Moving atoms by lattice vectors of periodic directions changes nothing."""
    steps = np.random.default_rng(seed).integers(-2, 3, size=graph.positions.shape) * graph.pbc[0].numpy()
    moved = rebuild(graph, cutoff=model.cutoff, positions=graph.positions.numpy() + steps @ graph.cell[0].numpy())
    asked = _asked(model, graph)
    before, after = predict_each(model, [graph, moved], asked)
    for name in asked:
        assert_close(after[name], before[name], f"lattice shift of {name}")


def check_batching(model: FoundationModel, graphs: list[AtomGraph]) -> None:
    """A batch gives what each structure gives alone, whatever else is asked for."""
    asked = sorted(set.intersection(*(set(_asked(model, graph)) for graph in graphs)))
    together = predict(model, collate(graphs), asked)
    alone = [predict(model, graph, asked) for graph in graphs]
    for name in asked:
        assert_close(together[name], torch.cat([one[name] for one in alone]), f"batching of {name}")
        single = predict(model, graphs[-1], [name])[name]
        assert_close(single, alone[-1][name], f"{name} without {', '.join(asked)}")


def check_extensivity(model: FoundationModel, first: AtomGraph, second: AtomGraph) -> None:
    """Two neutral molecules far apart: extensive properties add up, atomic ones stay."""
    assert float(first.total_charge) == 0 == float(second.total_charge)
    far = second.positions.numpy() + np.array([1000.0, 0.0, 0.0])
    united = with_neighbors(
        build_graph(
            positions=np.concatenate([first.positions.numpy(), far]),
            atomic_numbers=np.concatenate([first.atomic_numbers.numpy(), second.atomic_numbers.numpy()]),
            total_charge=0.0,
            spin_multiplicity=int(first.spin_multiplicity),
            level_index=int(first.level_index),
        ),
        model.cutoff,
    )
    names = [name for name in ("energy", "polarizability", "forces") if name in model.properties]
    whole, one, two = (predict(model, graph, names) for graph in (united, first, second))
    for name in names:
        joined = torch.cat([one[name], two[name]])
        expected = joined if PROPERTIES[name].level == "atom" else joined.sum(0, keepdim=True)
        assert_close(
            whole[name], expected, f"extensivity of {name}", tolerance=1e-3 if model.electrostatics else TOLERANCE
        )


def check_forces(model: FoundationModel, graph: AtomGraph, *, step: float = 1e-4, tolerance: float = 1e-6) -> None:
    """Forces are the negative energy gradient, by central differences of fourth order."""
    forces = predict(model, graph, ["forces"])["forces"]
    positions = graph.positions.numpy()
    for direction in np.random.default_rng(0).normal(size=(3, *positions.shape)):

        def moved(amount: float, direction: np.ndarray = direction) -> AtomGraph:
            return rebuild(graph, cutoff=model.cutoff, positions=positions + amount * direction)

        slope = _slope(model, moved, "energy", step=step)
        assert_close((forces * torch.from_numpy(direction)).sum(), -slope, "forces", tolerance=tolerance)


def check_stress(model: FoundationModel, graph: AtomGraph, *, step: float = 1e-4, tolerance: float = 1e-6) -> None:
    """Stress is the derivative of the energy by strain, divided by the volume."""
    stress = predict(model, graph, ["stress"])["stress"][0]
    volume = abs(float(torch.linalg.det(graph.cell[0])))
    rng = np.random.default_rng(0)
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / 2

        def moved(amount: float, strain: np.ndarray = strain) -> AtomGraph:
            deform = np.eye(3) + amount * strain
            places, cell = graph.positions.numpy() @ deform, graph.cell[0].numpy() @ deform
            return rebuild(graph, cutoff=model.cutoff, positions=places, cell=cell)

        slope = _slope(model, moved, "energy", step=step) / volume
        assert_close((stress * torch.from_numpy(strain)).sum(), slope, "stress", tolerance=tolerance)


def check_charge_conservation(model: FoundationModel, graphs: list[AtomGraph]) -> None:
    """Partial charges add up to the total charge of each graph, to rounding."""
    batch = collate(graphs)
    charges = predict(model, batch, ["partial_charges"])["partial_charges"]
    totals = charges.new_zeros(batch.num_graphs).index_add(0, batch.graph_index, charges)
    error = float((totals - batch.total_charge).abs().max())
    assert error < 1e-10, f"charges miss the total charge by {error:.1e} e"


def check_cutoff_smoothness(model: FoundationModel, *, numbers: tuple[int, int]) -> None:
    """As a pair separates beyond the cutoff, its energy joins that of free atoms with three continuous derivatives.

    The envelope goes to zero as (c - r)⁴: the deviation at half the distance from the cutoff must shrink about
    16-fold; a kink in any of the first three derivatives would show as a factor of 8 or less.
    """

    def energy(distance: float) -> float:
        graph = with_neighbors(
            build_graph(
                positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]],
                atomic_numbers=list(numbers),
                total_charge=0.0,
                spin_multiplicity=1,
            ),
            model.cutoff,
        )
        return float(predict(model, graph, ["energy"])["energy"])

    beyond = energy(model.cutoff + 1e-3)
    assert abs(energy(model.cutoff - 1e-6) - beyond) < 1e-12 * max(1.0, abs(beyond)), "a step at the cutoff"
    deviations = [abs(energy(model.cutoff * (1 - gap)) - beyond) for gap in (0.02, 0.01, 0.005)]
    assert deviations[0] > 0, "the pair does not interact"
    for wide, narrow in itertools.pairwise(deviations):
        order = math.log2(wide / narrow)
        assert order > 3.5, f"the energy goes to zero at the cutoff as (c - r)^{order:.2f}, allowed: 4 or more"


def _slope(
    model: FoundationModel,
    moved: Callable[[float], AtomGraph],
    name: str,
    *,
    step: float,
    about_origin: bool = False,
) -> Tensor:
    """How a property of the graph changes as the structure is moved, by central differences of fourth order.

    Args:
        model: What predicts.
        moved: Amount of the move -> structure.
        name: Of the property.
        step: Of the differences.
        about_origin: Take a free structure's dipole about the origin of coordinates.
    """
    amounts = (step, -step, 2 * step, -2 * step)
    graphs = [moved(amount) for amount in amounts]
    found = [one[name][0] for one in predict_each(model, graphs, [name])]
    if about_origin:
        found = [values + _origin_shift(graph) for values, graph in zip(found, graphs, strict=True)]
    after, before, far_after, far_before = found
    return (8 * (after - before) - (far_after - far_before)) / (12 * step)


def _origin_shift(graph: AtomGraph) -> Float[Tensor, " 3"]:
    """What makes a free structure's dipole, predicted about the centre of mass, one about the origin of coordinates."""
    masses = atomic_masses[graph.atomic_numbers.numpy()]
    return graph.total_charge * torch.from_numpy(masses @ graph.positions.numpy() / masses.sum())


def check_field_response(model: FoundationModel, graph: AtomGraph, *, step: float = 1e-3) -> None:
    """A free structure's dipole about the origin is -dE/dF, and its polarizability, if there is one, dP/dF."""
    field = external_field(graph)
    responds = model.head_kind("polarizability") == "charges"
    found = predict(model, graph, ["dipole", *(["polarizability"] if responds else [])])
    dipole = found["dipole"][0] + _origin_shift(graph)
    for axis in range(3):

        def moved(amount: float, axis: int = axis) -> AtomGraph:
            return rebuild(graph, cutoff=model.cutoff, field=field + amount * np.eye(3)[axis])

        slope = _slope(model, moved, "energy", step=step)
        assert_close(-slope, dipole[axis], f"-dE/dF, axis {axis}", tolerance=1e-6)
        if responds:
            response = _slope(model, moved, "dipole", step=step)
            assert_close(found["polarizability"][0][:, axis], response, f"dP/dF, axis {axis}", tolerance=1e-6)


def check_born_charges(model: FoundationModel, graph: AtomGraph, *, step: float = 1e-4) -> None:
    """Born charges add up to the total charge; those of a free structure are slopes of its dipole about the origin."""
    born = predict(model, graph, ["born_charges"])["born_charges"]
    error = float((born.sum(0) - float(graph.total_charge) * torch.eye(3)).abs().max())
    assert error < 1e-8, f"Born charges miss the total charge by {error:.1e} e"
    if bool(graph.pbc.any()):
        return
    positions = graph.positions.numpy()
    for direction in np.random.default_rng(0).normal(size=(2, *positions.shape)):

        def moved(amount: float, direction: np.ndarray = direction) -> AtomGraph:
            return rebuild(graph, cutoff=model.cutoff, positions=positions + amount * direction)

        expected = torch.einsum("nab,nb->a", born, torch.from_numpy(direction))
        slope = _slope(model, moved, "dipole", step=step, about_origin=True)
        assert_close(slope, expected, "Born charges", tolerance=1e-6)


def check_field_across(model: FoundationModel, graph: AtomGraph, *, step: float = 1e-3) -> None:
    """Along the field of a slab or wire, which is free there, forces change as Born charges: ∂f/∂F = ∂P/∂r = -∂²E/∂r∂F.

    Where charges are all there is, -dE/dF is also their Σ q r.
    """
    field = external_field(graph)
    along = field / np.linalg.norm(field)
    amounts = np.array([step, -step, 2 * step, -2 * step])
    weights = torch.tensor([8.0, -8.0, -1.0, 1.0]) / (12 * step)
    moved = [rebuild(graph, cutoff=model.cutoff, field=field + amount * along) for amount in amounts]
    found = predict_each(model, moved, ["energy", "forces"])
    direction = torch.from_numpy(along)
    born = predict(model, graph, ["born_charges"])["born_charges"]
    slope = torch.einsum("k,kna->na", weights, torch.stack([one["forces"] for one in found]))
    assert_close(slope, torch.einsum("a,nab->nb", direction, born), "df/dF across", tolerance=1e-6)
    [head] = [one for one in model.config.heads.values() if isinstance(one, ChargesConfig)]
    if not head.atomic_dipoles:
        charges = predict(model, graph, ["partial_charges"])["partial_charges"]
        slope = weights @ torch.cat([one["energy"] for one in found])
        assert_close(-slope, charges @ graph.positions @ direction, "-dE/dF across", tolerance=1e-6)


def check_supercell(model: FoundationModel, graph: AtomGraph) -> None:
    """Two cells of a neutral singlet are the same structure: twice the energy, the same forces, charges and stress."""
    assert float(graph.total_charge) == 0, "features are told the charge of the whole cell"
    assert int(graph.spin_multiplicity) == 1, "features are told the spin of the whole cell"
    axis = int(graph.pbc[0].int().argmax())
    cell = graph.cell[0].numpy()
    positions = graph.positions.numpy()
    double = with_neighbors(
        build_graph(
            positions=np.concatenate([positions, positions + cell[axis]]),
            atomic_numbers=np.tile(graph.atomic_numbers.numpy(), 2),
            total_charge=0.0,
            spin_multiplicity=1,
            cell=np.where(np.arange(3)[:, None] == axis, 2 * cell, cell),
            pbc=graph.pbc[0].numpy(),
            level_index=int(graph.level_index),
            external_field=external_field(graph),
        ),
        model.cutoff,
    )
    names = {"energy", "forces", "partial_charges"} | ({"stress"} if bool(graph.pbc.all()) else set())
    asked = sorted(names & model.properties)
    one, two = predict(model, graph, asked), predict(model, double, asked)
    for name in asked:
        expected = one[name].repeat(2, *[1] * (one[name].ndim - 1)) if PROPERTIES[name].level == "atom" else one[name]
        assert_close(two[name], 2 * expected if name == "energy" else expected, f"{name} of two cells")
