"""Devices that users name, and that a forward pass makes nothing on a device of its own choosing."""

from __future__ import annotations

import pytest
import torch

from foundation.config import validate
from foundation.cost import aspirin_molecules, labelled_graph
from foundation.data.graph import collate
from foundation.devices import usable_device
from foundation.errors import InputError
from foundation.model import FoundationModel, ModelConfig

EVEN_HEADS = {
    "energy": {"kind": "energy"},
    "charges": {"kind": "charges"},
    "polarizability": {"kind": "tensor", "property_name": "polarizability"},
    "element": {"kind": "masked_atom"},
    "noise": {"kind": "denoising"},
    "site": {"kind": "atom_classification", "property_name": "site_of_metabolism"},
}
MODELS = {
    "equivariant": {
        "backbone": {"kind": "equivariant", "cutoff": 4.0, "channels": 8, "pseudo_channels": 4, "radial_width": 8},
        "heads": {**EVEN_HEADS, "hand": {"kind": "pseudoscalar", "property_name": "handedness"}},
        "electrostatics": {"kind": "coulomb"},
    },
    "visnet": {"backbone": {"kind": "visnet", "cutoff": 4.0, "channels": 8, "num_layers": 2}, "heads": EVEN_HEADS},
}


@pytest.mark.parametrize("name", ["gpu", "mps", f"cuda:{torch.cuda.device_count()}"])
def test_a_device_that_models_cannot_run_on_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"device: got '.*allowed: cpu"):
        usable_device(name)
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_of_a_pass_is_made_on_the_device_of_its_inputs(kind: str) -> None:
    """Where the default device is another one, whatever is made without naming a device goes there, and fails."""
    config = {**MODELS[kind], "elements": [1, 6, 8], "levels": ["PBE"]}
    model = FoundationModel(validate(ModelConfig, config, where=kind))
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    model.scaling.references("energy").zero_()
    batch = collate([labelled_graph(atoms, cutoff=model.cutoff) for atoms in aspirin_molecules(2)])
    expected = model(batch, properties=model.properties, create_graph=True)
    with torch.device("meta"):
        found = model(batch, properties=model.properties, create_graph=True)
        torch.stack([values.nan_to_num().square().sum().double() for values in found.values()]).sum().backward()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, equal_nan=True)
    assert {parameter.grad.device.type for parameter in model.parameters() if parameter.grad is not None} == {"cpu"}
