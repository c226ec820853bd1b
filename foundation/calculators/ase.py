"""The ASE calculator: energies, conservative forces, stress, dipoles and charges of any model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from foundation.checkpoint import load
from foundation.compilation import CompiledModel
from foundation.devices import usable_device
from foundation.errors import InputError
from foundation.model import FoundationModel
from foundation.predict.engine import Predictor, choose_level, predict_structures
from foundation.predict.structures import CHARGE_KEYS, SPIN_KEYS, from_atoms

_ASE_NAMES = {
    "energy": "energy",
    "free_energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "dipole": "dipole",
    "charges": "partial_charges",
    "born_effective_charges": "born_charges",
    "polarizability": "polarizability",
    "quadrupole": "quadrupole",
}
"""ASE's name -> ours; ASE has none for the last two, which `atoms.calc.get_property` gives all the same."""
_ALWAYS = frozenset({"energy", "forces"})
"""Computed at every call: dynamics and relaxations ask for one after the other."""
_CHEAP_FOR_MOLECULES = frozenset({"dipole", "partial_charges"})


class FoundationCalculator(Calculator):
    """Computes what ASE asks for with a trained model.

    Total charge and spin multiplicity come from the arguments or from `atoms.info` (`total_charge`,
    `spin_multiplicity`); they are never assumed. Neighbours are found anew at every call, and `level`, `charge`, `spin`
    and `electric_field` may be set at any time, so nothing is ever stale.
    Forces are the exact negative gradient of the energy. Stress follows ASE: eV/Å³, tension positive, order xx, yy, zz,
    yz, xz, xy. Responses come from `atoms.calc.get_property("born_effective_charges", atoms)`, and so
    `polarizability` and `quadrupole`, where the model gives them.

    Args:
        model: A loaded model, or its name: a run or model directory, a URL, a hub id `org/name@revision`.
        level: Level of theory; needed where the model knows several.
        charge: Total charge, e; None reads `atoms.info`.
        spin: Multiplicity 2S+1; None reads `atoms.info`.
        electric_field: `(x, y, z)`, uniform, V/Å; its energy -F·P has positions from the origin of coordinates. Needs a
            model with electrostatics, and structures that do not repeat along it.
        dtype: Precision of the network. `float64` costs about twice as much and is for phonons, tight relaxations and
            tests of energy conservation.
        device: Where to compute.
        compile: Compile each set of properties at its first use, which takes up to a minute; refused there unless it
            reproduces the eager energies and forces.

    Raises:
        InputError: No such model or device, an unknown or unchosen level, a field for a model without electrostatics,
            or a model without any property that ASE knows.
    """

    def __init__(
        self,
        model: FoundationModel | str | Path,
        *,
        level: str | None = None,
        charge: int | float | None = None,
        spin: int | None = None,
        electric_field: Sequence[float] | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        device: str | torch.device = "cpu",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in {"float32", "float64"}:
            raise InputError(f"dtype: got {dtype!r}; allowed: 'float32', 'float64'")
        # A copy, so that the caller's model keeps its place, precision and mode.
        own = copy.deepcopy(model) if isinstance(model, FoundationModel) else load(model)
        if dtype == "float64":
            own = own.double()
        self.model = own.to(usable_device(device)).eval().requires_grad_(False)
        self.predictor: Predictor = CompiledModel(self.model) if compile else self.model
        self.level = self.model.config.levels[choose_level(self.model, level)]
        self.charge = charge
        self.spin = spin
        self.electric_field: Sequence[float] | np.ndarray | None = _checked_field(electric_field, self.model)
        self._used: dict[str, Any] = {}
        self.implemented_properties = [name for name, ours in _ASE_NAMES.items() if ours in self.model.properties]
        if not self.implemented_properties:
            raise InputError(
                f"the model predicts {', '.join(sorted(self.model.properties))}; none of it is what ASE asks for: "
                f"{', '.join(_ASE_NAMES)}"
            )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE.

        Raises:
            InputError: Charge or spin is not stated, an element was never seen, atoms lie on top of each other, or
                stress is asked of a structure that is not periodic in three directions, or the structure repeats along
                the field.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        assert isinstance(self.atoms, Atoms)
        self._used = self._settings()
        structure = from_atoms(
            self.atoms,
            name="atoms",
            where="atoms",
            charge=self.charge,
            spin=self.spin,
            external_field=_checked_field(self.electric_field, self.model),
        )
        wanted = {_ASE_NAMES[name] for name in properties} | _ALWAYS
        if not structure.pbc.any():
            wanted |= _CHEAP_FOR_MOLECULES
        wanted &= self.model.properties
        [prediction] = predict_structures(self.predictor, [structure], properties=wanted, level=self.level)
        for name, ours in _ASE_NAMES.items():
            if ours in prediction.values:
                self.results[name] = _ase_value(name, prediction.values[ours])

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; ASE itself would overlook `atoms.info` and our own settings."""
        changes = list(super().check_state(atoms, tol=tol))
        changes += [name for name, value in self._settings().items() if self.results and value != self._used.get(name)]
        if isinstance(self.atoms, Atoms) and _stated(self.atoms) != _stated(atoms):
            changes.append("info")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE has it, but compared with the last calculation without `atoms` too, for our settings may differ."""
        return super().get_property(name, self.atoms if atoms is None else atoms, allow_calculation)

    def _settings(self) -> dict[str, Any]:
        """What a calculation depends on beside the atoms, as values of which a later change leaves no trace."""
        field = None if self.electric_field is None else np.asarray(self.electric_field, dtype=np.float64).tolist()
        return {"level": self.level, "charge": self.charge, "spin": self.spin, "electric_field": field}


def _checked_field(field: Sequence[float] | np.ndarray | None, model: FoundationModel) -> np.ndarray | None:
    if field is None:
        return None
    if not model.has_electrostatics:
        raise InputError("electric_field: the model has no electrostatics for a field to act on; allowed: None")
    array = np.asarray(field, dtype=np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise InputError(f"electric_field: got {field!r}; allowed: three finite numbers, V/Å")
    return array


def _stated(atoms: Atoms) -> dict[str, Any]:
    return {key: atoms.info[key] for key in (*CHARGE_KEYS, *SPIN_KEYS) if key in atoms.info}


def _ase_value(name: str, value: Any) -> Any:
    if name in {"energy", "free_energy"}:
        return float(value)
    return full_3x3_to_voigt_6_stress(value) if name == "stress" else value
