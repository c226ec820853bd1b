"""The model: backbone, electrostatics and heads in one module, physical predictions out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from foundation.backbones import BackboneConfig, build_backbone
from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.derive import DERIVED, Deformation, born_charges, deformed, forces_and_stress, undeformed
from foundation.electrostatics import CoulombConfig, CoulombEnergy
from foundation.errors import InputError
from foundation.heads import HeadConfig, build_head, predictable
from foundation.nn.linear import calibrated
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
    """

    backbone: BackboneConfig
    heads: dict[str, HeadConfig]
    elements: tuple[int, ...] = Field(min_length=1)
    levels: tuple[str, ...] = Field(min_length=1)
    electrostatics: CoulombConfig | None = None

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

    Raises:
        InputError: Two heads give one property, or electrostatics lacks charges.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, elements=config.elements, num_levels=len(config.levels))
        self.cutoff: float = config.backbone.cutoff
        self.heads = nn.ModuleDict(
            {
                name: build_head(head, self.backbone.layout, num_elements=len(config.elements))
                for name, head in config.heads.items()
            }
        )
        self.properties = predictable(config.heads)
        self._head_of = _head_of_property(config)
        self.scaling = Scaling(self.properties, num_levels=len(config.levels))
        self.electrostatics = None if config.electrostatics is None else CoulombEnergy(config.electrostatics)
        if self.electrostatics is not None and not {"partial_charges", "energy"} <= self.properties:
            raise InputError("electrostatics needs heads that predict 'partial_charges' and 'energy'")

    @property
    def num_parameters(self) -> int:
        """Trainable and frozen parameters together."""
        return sum(parameter.numel() for parameter in self.parameters())

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
        with calibrated(self.backbone):
            self.backbone(moved)

    def forward(
        self, graph: AtomGraph, *, properties: Collection[str], create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Predict physical values.

        Args:
            graph: A batch with edges up to `cutoff`.
            properties: What to predict.
            create_graph: Whether derived properties (forces, stress, Born charges) will be differentiated again.

        Returns:
            One tensor a property, `[graphs, *shape]` or `[atoms, *shape]`, internal units; classification as logits;
            `masked_element` as `[atoms, elements]` logits.

        Raises:
            InputError: A property that no head gives.
        """
        asked = frozenset(properties)
        if not asked <= self.properties:
            unknown = ", ".join(sorted(asked - self.properties))
            raise InputError(f"the model does not predict {unknown}; it predicts {', '.join(sorted(self.properties))}")
        if not asked & DERIVED:
            return self._direct(graph, asked)
        with torch.enable_grad():
            deformation = undeformed(graph, with_strain="stress" in asked)
            moved = copy.copy(graph)
            moved.positions, moved.cell = deformed(graph, deformation)
            predictions = self.differentiated(graph, moved, deformation, asked, create_graph=create_graph)
        if not create_graph and not torch.is_grad_enabled():
            predictions = {name: values.detach() for name, values in predictions.items()}
        return predictions

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
        predictions = self._direct(moved, direct)
        predictions.update(_derived(predictions, graph, deformation, derived, create_graph=create_graph))
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

    def _direct(self, graph: AtomGraph, asked: frozenset[str]) -> dict[str, Tensor]:
        """Everything that heads give without derivatives."""
        needed = asked | {"partial_charges"} if self.electrostatics is not None and "energy" in asked else asked
        heads = [self.heads[name] for name in sorted({self._head_of[name] for name in needed})]
        features = self.backbone(graph, with_pseudo=any(head.reads_pseudo for head in heads))
        outputs: dict[str, Tensor] = {}
        for head in heads:
            for name, values in head(features, graph).items():
                outputs[name] = self.scaling.to_physical(name, values, graph) if head.normalised else values
        if self.electrostatics is not None and "energy" in asked:
            outputs["energy"] = outputs["energy"] + self.electrostatics(outputs["partial_charges"], graph)
        return {name: outputs[name] for name in sorted(asked)}


def _derived(
    predictions: dict[str, Tensor],
    graph: AtomGraph,
    deformation: Deformation,
    asked: frozenset[str],
    *,
    create_graph: bool,
) -> dict[str, Tensor]:
    derived: dict[str, Tensor] = {}
    if "born_charges" in asked:
        charges = born_charges(predictions["dipole"], deformation, create_graph=create_graph, retain_graph=True)
        # Where the dipole is undefined, so is its derivative; autograd would call it zero.
        undefined = predictions["dipole"].isnan().any(dim=1)[graph.graph_index]
        derived["born_charges"] = torch.where(undefined[:, None, None], torch.nan, charges)
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
