"""The visible union of heads, which property each can read, and the default for each property."""

from __future__ import annotations

from typing import Annotated

from e3nn import o3
from pydantic import Field

from foundation.electrostatics.charges import EquilibrationConfig
from foundation.electrostatics.interaction import Interaction
from foundation.errors import InputError
from foundation.heads.atom_classification import AtomClassificationConfig, AtomClassificationHead
from foundation.heads.base import Head
from foundation.heads.charges import ChargesConfig, ChargesHead
from foundation.heads.denoising import DenoisingConfig, DenoisingHead
from foundation.heads.energy import EnergyConfig, EnergyHead
from foundation.heads.invariant import InvariantConfig, InvariantHead
from foundation.heads.masked_atom import MaskedAtomConfig, MaskedAtomHead
from foundation.heads.pseudoscalar import PseudoscalarConfig, PseudoscalarHead
from foundation.heads.tensor import TensorConfig, TensorHead
from foundation.nn.features import FeatureLayout
from foundation.properties import PROPERTIES, Property, get_property

HeadConfig = Annotated[
    EnergyConfig
    | ChargesConfig
    | TensorConfig
    | AtomClassificationConfig
    | PseudoscalarConfig
    | InvariantConfig
    | DenoisingConfig
    | MaskedAtomConfig,
    Field(discriminator="kind"),
]
"""All heads. A new one is a file and a line here, one in `build_head` and one in `_readable`."""


SWITCHED_ON = ("polarizability", "quadrupole")
"""What a head of charges gives only where its config says so."""


def build_head(
    config: HeadConfig, layout: FeatureLayout, *, num_elements: int, interaction: Interaction | None
) -> Head:
    """Make a head with fresh weights.

    Args:
        config: Which.
        layout: Of the features that it reads.
        num_elements: That the model knows.
        interaction: Of the model's charges; None in a model without electrostatics.

    Raises:
        InputError: The backbone's features lack an irrep that the head reads; charge equilibration without interaction.
    """
    try:
        match config:
            case EnergyConfig():
                return EnergyHead(config, layout)
            case ChargesConfig():
                return ChargesHead(config, layout, interaction=interaction)
            case TensorConfig():
                return TensorHead(config, layout)
            case AtomClassificationConfig():
                return AtomClassificationHead(config, layout)
            case PseudoscalarConfig():
                return PseudoscalarHead(config, layout)
            case InvariantConfig():
                return InvariantHead(config, layout)
            case DenoisingConfig():
                return DenoisingHead(config, layout)
            case MaskedAtomConfig():
                return MaskedAtomHead(config, layout, num_elements=num_elements)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"head '{config.kind}' for {', '.join(config.predicts)}: {error}") from error


def _readable(prop: Property) -> dict[str, HeadConfig]:
    """Every kind of head that can read a property, the default first."""
    base = get_property(prop.derived_from) if prop.derived_from else prop
    heads: dict[str, HeadConfig] = {}
    if base.name == "energy":
        heads["energy"] = EnergyConfig()
    elif base.name in ("partial_charges", "dipole"):
        heads["charges"] = ChargesConfig()
    elif base.name == "position_noise":
        heads["denoising"] = DenoisingConfig()
    elif base.name == "masked_element":
        return {"masked_atom": MaskedAtomConfig()}
    if base.irreps == "0o" and base.level == "graph":
        heads["pseudoscalar"] = PseudoscalarConfig(property_name=base.name)
    if base.kind == "classification" and base.level == "atom":
        heads["atom_classification"] = AtomClassificationConfig(property_name=base.name)
    if base.name != "energy" and base.level in ("graph", "atom"):
        heads["tensor"] = TensorConfig(property_name=base.name)
    if base.name != "energy" and base.level == "graph" and base.form == "scalar":
        heads["invariant"] = InvariantConfig(property_name=base.name)
    if base.name == "polarizability":
        heads["charges"] = ChargesConfig(model=EquilibrationConfig(), polarizability=True)
    if base.name == "quadrupole":
        heads["charges"] = ChargesConfig(quadrupole=True)
    return heads


def default_head(property_name: str) -> HeadConfig:
    """The head that a task gets when its recipe names none.

    Raises:
        InputError: Unknown property, or one that no head reads.
    """
    heads = _readable(get_property(property_name))
    if not heads:
        raise InputError(f"no head reads property '{property_name}'")
    return next(iter(heads.values()))


def check_head(task: str, head: HeadConfig, property_name: str) -> None:
    """Refuse a head that cannot give a task's property.

    Raises:
        InputError: What, where, got and which heads can.
    """
    prop = get_property(property_name)
    base = prop.derived_from or prop.name
    if base in head.predicts:
        return
    switched_on = f"'charges' with {base}: true"
    allowed = ", ".join(
        switched_on if kind == "charges" and base in SWITCHED_ON else f"'{kind}'" for kind in _readable(prop)
    )
    allowed = allowed or "none"
    raise InputError(
        f"task '{task}': head '{head.kind}' cannot read property '{property_name}' (irreps {o3.Irreps(prop.irreps)}); "
        f"heads that can: {allowed}"
    )


def predictable(heads: dict[str, HeadConfig]) -> frozenset[str]:
    """All properties that these heads give, derivatives included."""
    direct = {name for head in heads.values() for name in head.predicts}
    return frozenset(direct | {row.name for row in PROPERTIES.values() if row.derived_from in direct})
