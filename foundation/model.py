"""The model: backbone, electrostatics and heads in one module, physical predictions out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from foundation.backbones import BackboneConfig, build_backbone
from foundation.by_level import level_by_level
from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.derive import (
    DERIVED,
    Deformation,
    born_charges,
    constant_weights,
    deformed,
    dipole_derivatives,
    forces_and_stress,
    undeformed,
)
from foundation.electrostatics import CellCautions, ElectrostaticsConfig, Interaction
from foundation.electrostatics.charges import Distribution, field_energy
from foundation.electrostatics.feedback import FieldFeedback
from foundation.elements import element_names
from foundation.errors import InputError
from foundation.heads import HeadConfig, build_head, predictable
from foundation.heads.charges import ChargesHead
from foundation.nn.features import Features
from foundation.nn.linear import calibrated
from foundation.physics import D3Dispersion, DispersionConfig, ZBLConfig, ZBLRepulsion
from foundation.properties import PROPERTIES
from foundation.scaling import Scaling, ScalingTable

if TYPE_CHECKING:
    from foundation.predict import Input, Prediction


CALIBRATION_DISPLACEMENT = 0.05
"""Å; about the thermal motion at room temperature."""


class ModelConfig(Config):
    """Everything that decides the shape of a model.

    Attributes:
        backbone: The shared backbone.
        heads: Name -> head; no property may be given by two heads.
        elements: Atomic numbers that the model knows, ascending.
        levels: Levels of theory (or assays) that it is conditioned on, in the order of `level_index`.
        electrostatics: Adds the energy of the predicted charges; needs a `charges` and an `energy` head.
        repulsion: Adds the repulsion of nuclei at short distances; needs an `energy` head.
        dispersion: Adds dispersion that the labels lack, to predictions only; needs an `energy` head.
    """

    backbone: BackboneConfig
    heads: dict[str, HeadConfig]
    elements: tuple[int, ...] = Field(min_length=1)
    levels: tuple[str, ...] = Field(min_length=1)
    electrostatics: ElectrostaticsConfig | None = None
    repulsion: ZBLConfig | None = None
    dispersion: DispersionConfig | None = None

    @field_validator("elements")
    @classmethod
    def _ascending(cls, elements: tuple[int, ...]) -> tuple[int, ...]:
        if list(elements) != sorted(set(elements)) or elements[0] < 1 or elements[-1] > 118:
            raise ValueError("atomic numbers must be ascending, without repetition, from 1 to 118")
        return elements


class FoundationModel(nn.Module):
    """One model of molecules and materials.

    Args:
        config: Its shape; weights are drawn from torch's global generator.

    Attributes:
        properties: Everything that it can predict, derivatives included.
        cutoff: Å; graphs must carry all edges up to it.
        dispersion: What predictions add to what `forward` gives (`foundation.predict`); None for nothing.

    Raises:
        InputError: Two heads give one property, electrostatics lacks charges, or energy terms lack an energy.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, elements=config.elements, num_levels=len(config.levels))
        self.cutoff: float = config.backbone.cutoff
        self.electrostatics = None if config.electrostatics is None else Interaction(config.electrostatics)
        self.heads = nn.ModuleDict(
            {
                name: build_head(
                    head, self.backbone.layout, num_elements=len(config.elements), interaction=self.electrostatics
                )
                for name, head in config.heads.items()
            }
        )
        self.feedback = nn.ModuleList()
        if config.electrostatics is not None and config.electrostatics.feedback is not None:
            rounds = config.electrostatics.feedback
            self.feedback.extend(FieldFeedback(rounds, self.backbone.layout) for _ in range(rounds.rounds))
        self.properties = predictable(config.heads)
        self._head_of = _head_of_property(config)
        self.scaling = Scaling(self.properties, num_levels=len(config.levels), physical=self._physical())
        self.repulsion = (
            None
            if config.repulsion is None
            else ZBLRepulsion(config.repulsion, cutoff=self.cutoff, edge_fields=self.backbone.edge_fields)
        )
        self.dispersion = None if config.dispersion is None else D3Dispersion(config.dispersion)
        self._check_energy_terms()

    def _physical(self) -> frozenset[str]:
        """Properties that heads give in physical units, so that nothing is scaled or added afterwards."""
        return frozenset(name for name, head in self._head_of.items() if not self.heads[head].normalised)

    def _check_energy_terms(self) -> None:
        terms = {"electrostatics": self.electrostatics, "repulsion": self.repulsion, "dispersion": self.dispersion}
        problems = [
            f"model.{name}: it adds to energies, and no head gives any; allowed: a task on 'energy' or 'forces'"
            for name, term in terms.items()
            if term is not None and "energy" not in self.properties
        ]
        if self.electrostatics is not None and self.head_kind("partial_charges") != "charges":
            problems.append(
                "model.electrostatics: it needs charges that keep the total charge, and no head of kind 'charges' "
                f"gives any; heads: {', '.join(head.kind for head in self.config.heads.values())}"
            )
        if problems:
            raise InputError(problems)

    @property
    def num_parameters(self) -> int:
        """Trainable and frozen parameters together."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def has_electrostatics(self) -> bool:
        """Whether its charges interact, with each other and with an external field."""
        return self.electrostatics is not None

    @property
    def cautions(self) -> CellCautions:
        """What is to be said of its predictions for periodic structures."""
        return CellCautions(
            by_convention=self.electrostatics is not None and self.electrostatics.config.screening_length is None,
            told_charge=self.config.backbone.use_charge,
            nearest_images=self.head_kind("dipole") == "charges",
        )

    def head_kind(self, property_name: str) -> str | None:
        """The kind of head that gives a property directly, or None."""
        name = self._head_of.get(property_name)
        return None if name is None else self.config.heads[name].kind

    @torch.no_grad()
    def prepare(self, table: ScalingTable, batch: AtomGraph) -> None:
        """Take over measured scales and start all features at unit variance on one batch of training structures.

        Their atoms are moved a little: in an ideal crystal or a planar molecule symmetry forbids some features, and
        unit variance of rounding noise would make the smallest displacement a large one.
        """
        self.scaling.set_table(table)
        self.backbone.mean_neighbors.fill_(table.mean_neighbors)
        moved = copy.copy(batch)
        noise = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        moved.positions = batch.positions + CALIBRATION_DISPLACEMENT * noise.to(batch.positions.device)
        moved.num_levels = 1  # one set of gains for all: fresh weights are the same for every level of theory
        with calibrated(self.backbone):
            self.backbone(moved)

    def forward(
        self, graph: AtomGraph, *, properties: Collection[str], create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Predict physical values: what labels are compared with, so without the dispersion that these lack.

        Args:
            graph: A batch with edges up to `cutoff`.
            properties: What to predict.
            create_graph: Whether derived properties (forces, stress, Born charges) will be differentiated again.

        Returns:
            One tensor a property, `[graphs, *shape]` or `[atoms, *shape]`, internal units; classification as logits;
            `masked_element` as `[atoms, elements]` logits.

        Raises:
            InputError: A property that no head gives; a graph without neighbours, or, unless it lies on an accelerator
                already, with an element that the model never saw.
        """
        asked = frozenset(properties)
        if not asked <= self.properties:
            unknown = ", ".join(sorted(asked - self.properties))
            raise InputError(f"the model does not predict {unknown}; it predicts {', '.join(sorted(self.properties))}")
        self._check_graph(graph)
        if graph.num_levels > 1 and self.backbone.level_sharing < 1:
            return level_by_level(graph, partial(self, properties=asked, create_graph=create_graph))
        if not asked & DERIVED:
            return self._direct(graph, asked)[0]
        nobody_learns = not create_graph and not torch.is_grad_enabled()
        with torch.enable_grad(), constant_weights(self, when=nobody_learns):
            deformation = undeformed(graph, with_strain="stress" in asked)
            moved = copy.copy(graph)
            moved.positions, moved.cell = deformed(graph, deformation)
            predictions = self.differentiated(graph, moved, deformation, asked, create_graph=create_graph)
        if nobody_learns:
            predictions = {name: values.detach() for name, values in predictions.items()}
        return predictions

    def _check_graph(self, graph: AtomGraph) -> None:
        """Say what an index out of range or a missing attribute deep inside would not."""
        if not all(name in graph.fields for name in self.backbone.edge_fields):
            raise InputError(
                "the graph has no neighbours yet; allowed: collate([with_neighbors(graph, model.cutoff)]), of "
                "foundation.data.graph and foundation.data.neighbors; model.predict takes structures as they are"
            )
        if graph.atomic_numbers.device.type != "cpu":
            return  # the program's own graphs were checked before they were moved, and looking now would wait for it
        unseen = set(graph.atomic_numbers.tolist()) - {0, *self.config.elements}
        if unseen:
            raise InputError(
                f"the model has never seen {element_names(unseen)}; it knows {element_names(self.config.elements)}"
            )

    def differentiated(
        self,
        graph: AtomGraph,
        moved: AtomGraph,
        deformation: Deformation,
        asked: frozenset[str],
        *,
        create_graph: bool,
    ) -> dict[str, Tensor]:
        """Predictions of which some are derivatives.

        Args:
            graph: A batch with edges up to `cutoff`.
            moved: The same with positions and cells that depend on `deformation`.
            deformation: Leaves of autograd.
            asked: What to predict.
            create_graph: Whether derivatives will be differentiated again.
        """
        derived = asked & DERIVED
        bases = {PROPERTIES[name].derived_from for name in derived}
        direct = (asked - derived) | frozenset(base for base in bases if base is not None)
        predictions, distribution = self._direct(moved, direct)
        predictions.update(_derived(predictions, distribution, graph, deformation, derived, create_graph=create_graph))
        return {name: predictions[name] for name in sorted(asked)}

    def predict(
        self,
        inputs: Input | Sequence[Input],
        *,
        properties: Collection[str] | None = None,
        level: str | None = None,
        charge: int | float | None = None,
        spin: int | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict for ASE atoms, RDKit molecules or SMILES; see `foundation.predict.predict`.

        Returns:
            One prediction for one input, a list for a list.
        """
        from foundation.predict import predict

        single = isinstance(inputs, str) or not isinstance(inputs, Sequence)
        given = cast("list[Input]", [inputs] if single else list(inputs))
        found = predict(self, given, properties=properties, level=level, charge=charge, spin=spin)
        return found[0] if single else found

    def _direct(self, graph: AtomGraph, asked: frozenset[str]) -> tuple[dict[str, Tensor], Distribution | None]:
        """Everything that heads give without derivatives, and the charges if a head was asked for them."""
        needed = asked | {"partial_charges"} if self.electrostatics is not None and "energy" in asked else asked
        heads = [self.heads[name] for name in sorted({self._head_of[name] for name in needed})]
        features = self.backbone(graph, with_pseudo=any(head.reads_pseudo for head in heads))
        features, missed = self._with_feedback(features, graph)
        outputs: dict[str, Tensor] = {}
        distribution = None
        for head in heads:
            if isinstance(head, ChargesHead):
                responds = "polarizability" in head.predicts and "polarizability" in asked
                distribution = head.distribute(features, graph, with_polarizability=responds)
                distribution = _with_largest_missing(distribution, missed)
                values = head.properties_of(distribution, graph)
            else:
                values = head(features, graph)
            for name, one in values.items():
                outputs[name] = self.scaling.to_physical(name, one, graph) if head.normalised else one
        if "energy" in asked:
            outputs["energy"] = self._with_energy_terms(outputs["energy"], distribution, graph)
        return {name: outputs[name] for name in sorted(asked)}, distribution

    def _with_feedback(self, features: Features, graph: AtomGraph) -> tuple[Features, list[Float[Tensor, " graphs"]]]:
        """Features that have answered to the field of the charges read from them, and what those charges missed, e."""
        missed: list[Tensor] = []
        if not self.feedback:
            return features, missed
        assert self.electrostatics is not None, "feedback is part of electrostatics"
        head = self.heads[self._head_of["partial_charges"]]
        assert isinstance(head, ChargesHead), "checked when the model was made"
        # In an external field the energy has to stay -F·P of charges that do not know the field, or the smallest of a
        # functional that is linear in it: features must not depend on it.
        unperturbed = copy.copy(graph)
        unperturbed.external_field = torch.zeros_like(graph.external_field)
        for feedback in self.feedback:
            distribution = head.distribute(features, unperturbed, with_polarizability=False)
            missed += [] if distribution.missing is None else [distribution.missing]
            features = feedback(features, self.electrostatics.potential(distribution.sources, unperturbed))
        return features, missed

    def _with_energy_terms(
        self, energy: Float[Tensor, " graphs"], distribution: Distribution | None, graph: AtomGraph
    ) -> Float[Tensor, " graphs"]:
        """Add what is not learnt atom by atom."""
        if self.electrostatics is not None:
            assert distribution is not None, "the charges head was asked for"
            if distribution.energy is not None:
                energy = energy + distribution.energy
            else:
                energy = energy + self.electrostatics.energy(distribution.sources, graph)
                energy = energy + field_energy(distribution.sources, graph)
        if self.repulsion is not None:
            energy = energy + self.repulsion(graph)
        return energy


def _with_largest_missing(distribution: Distribution, earlier: list[Float[Tensor, " graphs"]]) -> Distribution:
    """The distribution, but missing what it or those before it, whose field acted on features, miss at most."""
    if distribution.missing is None or not earlier:
        return distribution
    every = torch.stack([*earlier, distribution.missing])
    return replace(distribution, missing=every.gather(0, every.abs().argmax(dim=0, keepdim=True))[0])


def _derived(
    predictions: dict[str, Tensor],
    distribution: Distribution | None,
    graph: AtomGraph,
    deformation: Deformation,
    asked: frozenset[str],
    *,
    create_graph: bool,
) -> dict[str, Tensor]:
    derived: dict[str, Tensor] = {}
    if "born_charges" in asked and distribution is not None:
        derived["born_charges"] = born_charges(distribution.sources, graph, deformation, create_graph=create_graph)
    elif "born_charges" in asked:
        derived["born_charges"] = dipole_derivatives(
            predictions["dipole"], deformation, create_graph=create_graph, retain_graph=True
        )
    if asked & {"forces", "stress"}:
        forces, stress = forces_and_stress(
            predictions["energy"], graph, deformation, create_graph=create_graph, retain_graph=True
        )
        derived["forces"] = forces
        if stress is not None:
            derived["stress"] = stress
    return derived


def _head_of_property(config: ModelConfig) -> dict[str, str]:
    owner: dict[str, str] = {}
    for name, head in config.heads.items():
        for property_name in head.predicts:
            if property_name in owner:
                raise InputError(
                    f"heads '{owner[property_name]}' and '{name}' both give property '{property_name}'; one may"
                )
            owner[property_name] = name
    return owner
