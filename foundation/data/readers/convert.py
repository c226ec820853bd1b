"""From a file's frame to a record in internal units: the one place where units and conventions are undone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from ase.formula import Formula

from foundation.data.card import ResolvedDataset
from foundation.data.electrons import check_electrons
from foundation.data.fields import LabelField, NumberField, file_unit_factor
from foundation.data.layout import GroupConfig
from foundation.data.readers.origin import about_centre_of_mass
from foundation.data.readers.record import RawFrame, Record
from foundation.data.splits import SPLITS
from foundation.errors import InputError
from foundation.properties import Property, get_property
from foundation.units import conversion_factor

__all__ = ["Converter", "formula"]

_GEOMETRY_DECIMALS = 4
"""Å; positions that agree to this many decimals are one geometry."""
_SYMMETRY_TOLERANCE = 0.05
"""Largest asymmetry of a symmetric 3×3 label, relative to its largest entry, that is taken for numerical noise."""
_COMPONENT_INDEX = {
    "xx": (0, 0), "yy": (1, 1), "zz": (2, 2),
    "yz": (1, 2), "xz": (0, 2), "xy": (0, 1),
    "zy": (1, 2), "zx": (0, 2), "yx": (0, 1),
}  # fmt: skip


class Converter:
    """Turns frames of one data set into records.

    Args:
        dataset: Says what every key means.
    """

    def __init__(self, dataset: ResolvedDataset) -> None:
        self._dataset = dataset
        self._factors = {name: file_unit_factor(name, field) for name, field in dataset.properties.items()}

    def convert(self, frame: RawFrame) -> Record | None:
        """Convert one frame.

        Returns:
            The record, or None if a label exceeds its `drop_above`.

        Raises:
            InputError: A label, charge, spin, group or split that the data set declares is absent, malformed, NaN or
                infinite, the charge and spin do not fit the electrons, or the origin of a moment is not stated.
        """
        dataset = self._dataset
        positions, cell, pbc = self._geometry(frame)
        targets = {}
        for name, field in dataset.properties.items():
            prop = get_property(name)
            raw = _label(frame, name, field, prop)
            if raw is None:
                continue
            if field.drop_above is not None and np.nanmax(np.abs(raw), initial=0.0) > field.drop_above:
                return None
            targets[name] = np.asarray(raw * self._factors[name] * _convention_factor(frame, field, cell))
        numbers = np.asarray(frame.atomic_numbers, dtype=np.int64)
        charge, spin = _charge(frame, dataset), _spin(frame, dataset)
        check_electrons(
            numbers,
            total_charge=charge,
            spin_multiplicity=spin,
            periodic=any(pbc),
            implicit_hydrogens=frame.implicit_hydrogens,
            where=frame.where,
        )
        if not any(pbc):
            targets = about_centre_of_mass(
                targets,
                dataset.properties,
                positions=positions,
                atomic_numbers=numbers,
                total_charge=charge,
                where=frame.where,
            )
        return Record(
            positions=positions,
            atomic_numbers=numbers,
            cell=cell,
            pbc=pbc,
            total_charge=charge,
            spin_multiplicity=spin,
            targets=targets,
            group=_group(frame, dataset.group, positions, pbc=pbc, cell=cell),
            split=_split(frame, dataset.split_key),
            smiles=_smiles(frame, dataset.smiles_key),
            where=frame.where,
        )

    def _geometry(self, frame: RawFrame) -> tuple[np.ndarray, np.ndarray | None, tuple[bool, bool, bool]]:
        positions = np.asarray(frame.positions, dtype=np.float64) * conversion_factor(frame.length_unit, "Å")
        if not np.isfinite(positions).all():
            raise InputError(f"{frame.where}: positions hold NaN or infinite values")
        pbc = frame.pbc
        if self._dataset.pbc is not None:
            pbc = (self._dataset.pbc, self._dataset.pbc, self._dataset.pbc)
        if not any(pbc):
            return positions, None, (False, False, False)
        if frame.cell is None:
            raise InputError(f"{frame.where}: pbc is {list(pbc)} but there is no cell; state pbc: false for molecules")
        return positions, np.asarray(frame.cell, dtype=np.float64) * conversion_factor(frame.cell_unit, "Å"), pbc


def formula(atomic_numbers: np.ndarray) -> str:
    """Composition in Hill order, such as C9H8O4."""
    from ase.data import chemical_symbols

    return str(Formula.from_list([chemical_symbols[number] for number in atomic_numbers]).format("hill"))


def _convention_factor(frame: RawFrame, field: LabelField, cell: np.ndarray | None) -> float:
    if field.convention in ("gradient", "compression_positive"):
        return -1.0
    if field.convention == "per_atom":
        return float(len(frame.atomic_numbers))
    if field.convention == "virial":
        volume = 0.0 if cell is None else abs(float(np.linalg.det(cell)))
        if volume == 0.0:
            raise InputError(f"{frame.where}: '{field.key}' is a virial, but the structure has no cell with a volume")
        return -1.0 / volume
    return 1.0


def _label(frame: RawFrame, name: str, field: LabelField, prop: Property) -> np.ndarray | None:
    """The label in the file's unit and this project's shape; None where it may be absent and is."""
    value = frame.values.get(field.key)
    if value is None or (isinstance(value, str) and not value.strip()):
        if field.optional:
            return None
        raise InputError(
            f"{frame.where}: label '{name}': no key '{field.key}'; keys that are there: {_list(frame.available)}; "
            "state optional: true if it may be absent"
        )
    where = f"{frame.where}: label '{name}' (key '{field.key}')"
    if field.atom_list_from is not None:
        return _atom_list(frame, value, first=field.atom_list_from, where=where)
    if field.classes is not None:
        array = np.asarray(_class_number(value, field.classes, where))
    else:
        array = _numbers(value, where)
    kept = frame.kept_atoms
    if prop.level == "atom" and kept is not None and array.shape[:1] == kept.shape:
        array = array[kept]
    array = _shaped(array, field, prop, num_atoms=len(frame.atomic_numbers), where=where)
    if not np.isfinite(array).all():
        rows = array.reshape(len(array) if prop.level == "atom" else 1, -1)
        missing = np.isnan(rows).all(axis=1)
        if not field.optional or not (missing | np.isfinite(rows).all(axis=1)).all():
            raise InputError(f"{where} holds NaN or infinite values")
        if missing.all():
            return None
    return array


def _shaped(array: np.ndarray, field: LabelField, prop: Property, *, num_atoms: int, where: str) -> np.ndarray:
    lead = (num_atoms,) if prop.level == "atom" else ()
    if field.components is not None:
        if array.size != 6 * int(np.prod(lead, dtype=int)):
            raise InputError(f"{where} has shape {array.shape}; allowed with components: {(*lead, 6)}")
        flat = array.reshape(*lead, 6)
        full = np.empty((*lead, 3, 3))
        for position, component in enumerate(field.components):
            row, column = _COMPONENT_INDEX[component]
            full[..., row, column] = full[..., column, row] = flat[..., position]
        return full
    shape = (*lead, *prop.shape)
    wanted = tuple(length for length in shape if length != 1)
    flat_form = tuple(length for length in (*lead, int(np.prod(prop.shape, dtype=int))) if length != 1)
    got = tuple(length for length in array.shape if length != 1)
    if got not in (wanted, flat_form):
        hint = ""
        if prop.form == "symmetric_matrix" and array.size == 6 * max(1, int(np.prod(lead, dtype=int))):
            hint = "; six numbers need components: [xx, yy, zz, yz, xz, xy] in the file's order"
        raise InputError(f"{where} has shape {array.shape}; allowed: {shape}{hint}")
    array = array.reshape(shape)
    if field.convention == "transposed":
        array = np.swapaxes(array, -1, -2)
    if prop.form == "symmetric_matrix":
        transposed = np.swapaxes(array, -1, -2)
        if np.nanmax(np.abs(array - transposed), initial=0.0) > _SYMMETRY_TOLERANCE * np.nanmax(np.abs(array)):
            raise InputError(f"{where} is not symmetric: {array.tolist()}")
        array = 0.5 * (array + transposed)
    return array


def _numbers(value: object, where: str) -> np.ndarray:
    try:
        return np.asarray(value.replace(",", " ").split() if isinstance(value, str) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: got {value!r:.80}; allowed: numbers") from error


def _class_number(value: object, classes: Mapping[str, float], where: str) -> float:
    text = str(value).strip()
    if text not in classes:
        raise InputError(f"{where}: got '{text}'; allowed: {', '.join(classes)}")
    return float(classes[text])


def _atom_list(frame: RawFrame, value: object, *, first: int, where: str) -> np.ndarray:
    """1 for the listed atoms, 0 for the other heavy atoms, NaN for hydrogens."""
    listed = _numbers(value, where).reshape(-1)
    indices = listed.astype(np.int64) - first
    if (listed != listed.round()).any() or indices.min() < 0 or indices.max() >= len(frame.atomic_numbers):
        raise InputError(f"{where}: atoms {value!r}; allowed: {first} to {len(frame.atomic_numbers) - 1 + first}")
    hydrogen = np.asarray(frame.atomic_numbers) == 1
    if hydrogen[indices].any():
        raise InputError(f"{where}: atoms {value!r} name a hydrogen; allowed: heavy atoms")
    marks = np.where(hydrogen, np.nan, 0.0)
    marks[indices] = 1.0
    return marks


def _charge(frame: RawFrame, dataset: ResolvedDataset) -> float:
    if isinstance(dataset.charge, NumberField):
        return _stated_number(frame, dataset.charge, "charge")
    if dataset.charge == "formal":
        if frame.formal_charge is None:
            raise InputError(
                f"{frame.where}: charge: formal, but the format holds no formal charges; allowed: a number, {{key: …}}"
            )
        return float(frame.formal_charge)
    return float(dataset.charge)


def _spin(frame: RawFrame, dataset: ResolvedDataset) -> int:
    if isinstance(dataset.spin, NumberField):
        number = _stated_number(frame, dataset.spin, "spin")
        if number < 1 or number != round(number):
            raise InputError(
                f"{frame.where}: spin (key '{dataset.spin.key}') is {number:g}; allowed: 2S+1 = 1, 2, 3, …"
            )
        return int(number)
    if dataset.spin == "formal":
        if frame.radical_electrons is None:
            raise InputError(
                f"{frame.where}: spin: formal, but the format holds no electrons; allowed: a number, {{key: …}}"
            )
        return frame.radical_electrons + 1
    return dataset.spin


def _stated_number(frame: RawFrame, field: NumberField, what: str) -> float:
    if field.key not in frame.values:
        raise InputError(
            f"{frame.where}: {what}: no key '{field.key}'; keys that are there: {_list(frame.available)}; "
            f"or state one {what} for the whole data set"
        )
    if isinstance(frame.values[field.key], bool):
        raise InputError(f"{frame.where}: {what}: key '{field.key}' has no number behind it; write {field.key}=…")
    array = _numbers(frame.values[field.key], f"{frame.where}: {what} (key '{field.key}')").reshape(-1)
    if array.size != 1 or not np.isfinite(array).all():
        raise InputError(
            f"{frame.where}: {what} (key '{field.key}'): got {frame.values[field.key]!r}; allowed: one number"
        )
    return float(array[0])


def _group(
    frame: RawFrame,
    config: GroupConfig | None,
    positions: np.ndarray,
    *,
    pbc: tuple[bool, bool, bool],
    cell: np.ndarray | None,
) -> str:
    if config is None:
        return frame.molecule or ""
    if config.by == "key":
        assert config.key is not None
        if config.key not in frame.values:
            raise InputError(
                f"{frame.where}: group: no key '{config.key}'; keys that are there: {_list(frame.available)}"
            )
        return str(frame.values[config.key])
    if config.by == "molecule":
        if frame.molecule is None:
            raise InputError(f"{frame.where}: group by: molecule, but there is no SMILES; state smiles_key")
        return frame.molecule
    if config.by == "composition":
        return formula(frame.atomic_numbers)
    if config.by == "file":
        return frame.where.rsplit(": ", 1)[0].rsplit("/", 1)[-1]
    rounded = [np.round(positions, _GEOMETRY_DECIMALS) + 0.0, np.asarray(frame.atomic_numbers, dtype=np.int64)]
    if cell is not None:
        rounded += [np.round(cell, _GEOMETRY_DECIMALS) + 0.0, np.asarray(pbc)]
    return hashlib.sha256(b"".join(array.tobytes() for array in rounded)).hexdigest()[:16]


def _split(frame: RawFrame, key: str | None) -> str | None:
    if key is None:
        return frame.split
    if key not in frame.values:
        raise InputError(f"{frame.where}: split: no key '{key}'; keys that are there: {_list(frame.available)}")
    text = str(frame.values[key]).strip()
    if text not in SPLITS:
        raise InputError(f"{frame.where}: split (key '{key}') is '{text}'; allowed: {', '.join(SPLITS)}")
    return text


def _smiles(frame: RawFrame, key: str | None) -> str | None:
    if frame.smiles is not None or key is None:
        return frame.smiles
    value = frame.values.get(key)
    return None if value is None else str(value)


def _list(keys: object) -> str:
    names = sorted(str(key) for key in keys) if isinstance(keys, list | tuple) else []
    return ", ".join(names) if names else "none"
