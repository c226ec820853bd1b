"""Write the stored model of today's format version: small, with weights drawn at random."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from foundation.checkpoint import CardInfo, save_model
from foundation.config import validate
from foundation.migrations import FORMAT_VERSION
from foundation.model import FoundationModel, ModelConfig

SMILES = "OC=O"
CONFIG = {
    "backbone": {
        "kind": "equivariant",
        "cutoff": 3.5,
        "channels": 2,
        "pseudo_channels": 1,
        "edge_degree": 2,
        "product_degree": 2,
        "radial_width": 4,
        "radial_groups": 1,
    },
    "heads": {"energy": {"kind": "energy", "hidden": 4}, "charges": {"kind": "charges", "hidden": 4}},
    "elements": [1, 6, 8],
    "levels": ["GFN2-xTB"],
    "electrostatics": {"kind": "coulomb"},
}


def main() -> None:
    """Write the folder of today's version; one that is there is left alone."""
    directory = Path(__file__).parent / f"format_{FORMAT_VERSION}"
    if directory.exists():
        raise SystemExit(f"{directory} exists; stored models are never rewritten")
    model = FoundationModel(validate(ModelConfig, CONFIG, where="stored model"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.scaling.references("energy")[0, CONFIG["elements"]] = torch.tensor([-10.75, -48.5, -102.5]).double()
    model.scaling.provenance = {"GFN2-xTB": "written down for this test"}
    save_model(model, directory, card_info=CardInfo(title=f"stored model, format {FORMAT_VERSION}"))
    prediction = model.eval().predict(SMILES)
    expected = {
        "positions": prediction.structure.positions.tolist(),
        "atomic_numbers": prediction.structure.atomic_numbers.tolist(),
        "total_charge": prediction.structure.total_charge,
        "spin_multiplicity": prediction.structure.spin_multiplicity,
        "values": {name: value.tolist() for name, value in prediction.values.items()},
    }
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
