"""Predictions written to a file, which appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from rdkit import Chem

from foundation.errors import InputError
from foundation.predict.engine import Prediction
from foundation.properties import PROPERTIES

_AXES = "xyz"


def check_output(path: Path) -> None:
    """Refuse, before any work is done, a file that could not be written.

    Raises:
        InputError: An unknown kind of file, or no such folder.
    """
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"{path}: kind of file '{path.suffix}'; allowed: {', '.join(_WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.absolute().parent}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; allowed: a file")


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions as `.csv`, `.sdf`, `.extxyz` or `.json`.

    `.csv` has one row a structure, with a value of each atom as a JSON list. `.sdf` needs molecules with bonds.
    `.extxyz` has the keys that ASE reads: energy, forces, stress (ASE's order), dipole.

    Raises:
        InputError: The file cannot be written, or an SDF is asked for structures without bonds.
    """
    check_output(path)
    text = _WRITERS[path.suffix.lower()](predictions)
    try:
        handle, staging = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            Path(staging).chmod(0o666 & ~umask)
            Path(staging).replace(path)
        finally:
            Path(staging).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def _flat(prediction: Prediction) -> dict[str, Any]:
    """One value a column: scalars as they are, Cartesian components apart, values of atoms as lists."""
    structure = prediction.structure
    columns: dict[str, Any] = {
        "name": structure.name,
        "smiles": structure.smiles or "",
        "formula": Atoms(numbers=structure.atomic_numbers).get_chemical_formula(),
        "total_charge_e": structure.total_charge,
        "spin_multiplicity": structure.spin_multiplicity,
        "level_of_theory": prediction.level_of_theory,
    }
    for name in sorted(prediction.values):
        value, prop = prediction.values[name], PROPERTIES[name]
        column = _column(name)
        if prop.level == "atom":
            columns[column] = json.dumps(_rounded(value))
        elif prop.form == "scalar":
            columns[column] = float(value)
        elif prop.form == "vector":
            columns |= {f"{column}_{axis}": float(value[i]) for i, axis in enumerate(_AXES)}
        else:
            symmetric = prop.form == "symmetric_matrix"
            columns |= {
                f"{column}_{_AXES[i]}{_AXES[j]}": float(value[i, j])
                for i in range(3)
                for j in range(3)
                if j >= i or not symmetric
            }
    columns |= prediction.labels
    for name, atoms in prediction.rankings.items():
        columns[f"{name}_ranking_from_1"] = " ".join(str(atom + 1) for atom in atoms)
    columns["notes"] = "; ".join(structure.notes)
    return columns


def _column(name: str) -> str:
    prop = PROPERTIES[name]
    if name == "handedness":
        return "handedness_probability_R"
    if prop.kind == "classification":
        return f"{name}_probability"
    return name if prop.unit == "1" else f"{name}_{prop.unit_label}"


def _rounded(value: np.ndarray) -> Any:
    """Plain lists of numbers with the digits that a model in single precision has, and some."""
    return json.loads(json.dumps(value.tolist()), parse_float=lambda text: float(f"{float(text):.9g}"))


def _csv(predictions: Sequence[Prediction]) -> str:
    rows = [_flat(prediction) for prediction in predictions]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda column: column == "notes")  # stable: only the notes move, to the end
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(predictions: Sequence[Prediction]) -> str:
    names = sorted({name for prediction in predictions for name in prediction.values})
    document = {
        "units": {name: PROPERTIES[name].unit for name in names},
        "meanings": {name: PROPERTIES[name].description for name in names},
        "predictions": [
            {
                "name": prediction.structure.name,
                "smiles": prediction.structure.smiles,
                "atomic_numbers": prediction.structure.atomic_numbers.tolist(),
                "positions": prediction.structure.positions.tolist(),
                "cell": None if prediction.structure.cell is None else prediction.structure.cell.tolist(),
                "pbc": prediction.structure.pbc.tolist(),
                "total_charge": prediction.structure.total_charge,
                "spin_multiplicity": prediction.structure.spin_multiplicity,
                "level_of_theory": prediction.level_of_theory,
                "values": {name: value.tolist() for name, value in sorted(prediction.values.items())},
                "labels": dict(prediction.labels),
                "rankings": {name: list(atoms) for name, atoms in prediction.rankings.items()},
                "notes": list(prediction.structure.notes),
            }
            for prediction in predictions
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _sdf(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = Chem.SDWriter(text)
    for prediction in predictions:
        structure = prediction.structure
        if structure.molecule is None:
            raise InputError(
                f"{structure.where}: an SDF needs bonds, and this structure has none; write csv, extxyz or json"
            )
        molecule = Chem.Mol(structure.molecule)
        for name in molecule.GetPropNames():
            molecule.ClearProp(name)
        molecule.SetProp("_Name", structure.name)
        for column, value in _flat(prediction).items():
            if column not in {"name", "notes"} or (column == "notes" and value):
                molecule.SetProp(column, str(value))
        for name, value in prediction.values.items():
            if PROPERTIES[name].level == "atom" and PROPERTIES[name].form == "scalar":
                # RDKit and its tools read these lists back onto the atoms.
                molecule.SetProp(f"atom.dprop.{name}", " ".join(f"{one:.6g}" for one in value))
        writer.write(molecule)
    writer.close()
    return text.getvalue()


def _extxyz(predictions: Sequence[Prediction]) -> str:
    frames = []
    for prediction in predictions:
        structure = prediction.structure
        atoms = Atoms(
            numbers=structure.atomic_numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc
        )
        atoms.info.update(
            name=structure.name,
            total_charge=structure.total_charge,
            spin_multiplicity=structure.spin_multiplicity,
            level_of_theory=prediction.level_of_theory,
        )
        atoms.info.update(prediction.labels)
        if structure.smiles is not None:
            atoms.info["smiles"] = structure.smiles
        results: dict[str, Any] = {}
        for name, value in prediction.values.items():
            if name == "energy":
                results[name] = float(value)
            elif name in {"forces", "dipole"}:
                results[name] = value
            elif name == "stress":
                results[name] = full_3x3_to_voigt_6_stress(value)
            elif PROPERTIES[name].level == "atom":
                atoms.arrays[name] = (
                    value.reshape(len(atoms), -1).squeeze(axis=1)
                    if value[0].size == 1
                    else (value.reshape(len(atoms), -1))
                )
            else:
                atoms.info[_column(name)] = float(value) if value.ndim == 0 else value
        if structure.notes:
            atoms.info["notes"] = "; ".join(structure.notes)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Prediction]], str]] = {
    ".csv": _csv,
    ".sdf": _sdf,
    ".extxyz": _extxyz,
    ".xyz": _extxyz,
    ".json": _json,
}
