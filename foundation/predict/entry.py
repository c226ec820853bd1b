"""The two ways in: `FoundationModel.predict` and `foundation predict`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from foundation.errors import InputError
from foundation.predict.engine import Prediction, Predictor, choose_level, choose_properties, predict_structures
from foundation.predict.inputs import Input, read_structures, structures_of
from foundation.predict.outputs import check_output, write_predictions


def predict(
    model: Predictor,
    inputs: Sequence[Input],
    *,
    properties: Collection[str] | None = None,
    level: str | None = None,
    charge: int | float | None = None,
    spin: int | None = None,
) -> list[Prediction]:
    """Predict for objects in Python.

    Args:
        model: Any `FoundationModel`.
        inputs: ASE atoms, RDKit molecules, SMILES, mixed as you like.
        properties: What to predict; None takes everything that is defined for the structure.
        level: Level of theory; needed where the model knows several.
        charge: Total charge of every input, e; needed for atoms that do not carry it in `atoms.info`.
        spin: Multiplicity 2S+1 of every input; likewise.

    Returns:
        One prediction an input, in order.

    Raises:
        InputError: All that is wrong with the inputs, each with its number.
    """
    structures = structures_of(inputs, charge=charge, spin=spin)
    return predict_structures(model, structures, properties=properties, level=level)


def predict_files(
    model: Predictor,
    inputs: Sequence[Path],
    *,
    out: Path,
    properties: Collection[str] | None = None,
    level: str | None = None,
    charge: int | float | None = None,
    spin: int | None = None,
) -> list[Prediction]:
    """Predict for files and write one file; nothing is written unless everything succeeded.

    Args:
        model: Any `FoundationModel`.
        inputs: `.smi`, `.csv`, `.sdf`, `.mol`, `.xyz`, `.extxyz`, `.cif`, `.db`.
        out: `.csv`, `.sdf`, `.extxyz` or `.json`.
        properties: As in `predict`.
        level: As in `predict`.
        charge: Of every structure; needed where the files do not say.
        spin: Of every structure; needed where the files do not say.

    Returns:
        What was written.

    Raises:
        InputError: All that is wrong with the inputs, or `out` cannot be written.
    """
    check_output(out)
    if out.resolve() in {Path(name).resolve() for name in inputs}:
        raise InputError(f"--out {out}: it is one of the inputs, which would be overwritten; name another file")
    choose_level(model, level)
    choose_properties(model, properties)
    structures = read_structures(inputs, charge=charge, spin=spin)
    predictions = predict_structures(model, structures, properties=properties, level=level)
    write_predictions(out, predictions)
    return predictions
