"""Force errors of a model of 3BPA on hot frames, as one line of JSON: `… DESIGN RUN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import foundation
from benchmarks.backbones.variants.designs import DESIGNS
from benchmarks.hot_frames import errors

if __name__ == "__main__":
    design, run = sys.argv[1:]
    DESIGNS[design]()
    forces = errors(foundation.load(str(Path(run))))["hot"]["forces"]
    print(
        json.dumps(
            {
                "hot_forces_mae_meV_per_A": float(np.abs(forces).mean()),
                "hot_forces_rmse_meV_per_A": float(np.sqrt((forces**2).mean())),
            }
        )
    )
