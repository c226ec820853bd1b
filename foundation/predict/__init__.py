"""Predictions: structures in, values in internal units out, for Python and for the command line."""

from __future__ import annotations

from foundation.predict.engine import Prediction, Predictor, predict_batch, predict_structures
from foundation.predict.entry import predict, predict_files
from foundation.predict.inputs import Input, read_structures, structures_of
from foundation.predict.outputs import write_predictions
from foundation.predict.structures import Structure, from_atoms, from_molecule, from_smiles

__all__ = [
    "Input",
    "Prediction",
    "Predictor",
    "Structure",
    "from_atoms",
    "from_molecule",
    "from_smiles",
    "predict",
    "predict_batch",
    "predict_files",
    "predict_structures",
    "read_structures",
    "structures_of",
    "write_predictions",
]
