"""Atomic charges that add up to the total charge exactly, and the moments they give."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from foundation.config import Config
from foundation.data.graph import AtomGraph
from foundation.electrostatics.charges import (
    ChargeModelConfig,
    Distribution,
    EquilibrationConfig,
    Moments,
    RedistributedConfig,
    build_charge_model,
)
from foundation.electrostatics.interaction import Interaction
from foundation.errors import InputError
from foundation.heads.base import Head
from foundation.nn.features import FeatureLayout, Features


class ChargesConfig(Config):
    """Charges, and a dipole from charges and atomic dipoles.

    Attributes:
        hidden: Width of the readouts.
        atomic_dipoles: Whether atoms carry a dipole beside their charge.
        model: How the total charge is distributed: `redistributed` or `qeq`.
        polarizability: Give the polarizability too, as the response of the charges to a field; of `qeq` alone.
        quadrupole: Give the second moment of the charges and atomic dipoles too.
    """

    kind: Literal["charges"] = "charges"
    hidden: int = Field(default=32, ge=1)
    atomic_dipoles: bool = True
    model: ChargeModelConfig = Field(default_factory=RedistributedConfig)
    polarizability: bool = False
    quadrupole: bool = False

    @model_validator(mode="after")
    def _responds(self) -> ChargesConfig:
        if self.polarizability and not isinstance(self.model, EquilibrationConfig):
            raise InputError(
                f"head 'charges': polarizability: charge model '{self.model.kind}' does not respond to a field; "
                "allowed: model: {kind: qeq}, or the polarizability from a head of kind 'tensor'"
            )
        return self

    @property
    def predicts(self) -> tuple[str, ...]:
        more = ("polarizability",) * self.polarizability + ("quadrupole",) * self.quadrupole
        shared_out = ("missing_charge",) * isinstance(self.model, RedistributedConfig)
        return ("partial_charges", "dipole", *shared_out, *more)


class ChargesHead(Head):
    """Charges in e, dipole in e·Å about the centre of mass; physical, none of them scaled.

    In a periodic cell the moments of charges and their response to a field are defined only modulo lattice vectors:
    they are NaN there. The `tensor` head gives a cell's dipole as a sum of atomic vectors; Born charges, which are
    derivatives, are defined everywhere.
    """

    reads_pseudo = False
    normalised = False

    def __init__(self, config: ChargesConfig, layout: FeatureLayout, *, interaction: Interaction | None) -> None:
        super().__init__()
        self.predicts = config.predicts
        self.model = build_charge_model(
            config.model,
            layout,
            hidden=config.hidden,
            atomic_dipoles=config.atomic_dipoles,
            interaction=interaction,
        )
        self.with_polarizability, self.with_quadrupole = config.polarizability, config.quadrupole
        self.moments = Moments()

    def distribute(self, features: Features, graph: AtomGraph, *, with_polarizability: bool) -> Distribution:
        """Charges and atomic dipoles, which the long-range energy and Born charges want too."""
        return self.model(features, graph, with_polarizability=with_polarizability)

    def properties_of(self, distribution: Distribution, graph: AtomGraph) -> dict[str, Tensor]:
        """Every property in `predicts`, the polarizability if the distribution has one."""
        sources = distribution.sources
        values = {"partial_charges": sources.charges, "dipole": self.moments.dipole(sources, graph)}
        if distribution.polarizability is not None:
            values["polarizability"] = distribution.polarizability
        if distribution.missing is not None:
            values["missing_charge"] = distribution.missing
        if self.with_quadrupole:
            values["quadrupole"] = self.moments.quadrupole(sources, graph)
        return values

    def forward(self, features: Features, graph: AtomGraph) -> dict[str, Tensor]:
        distribution = self.distribute(features, graph, with_polarizability=self.with_polarizability)
        return self.properties_of(distribution, graph)
