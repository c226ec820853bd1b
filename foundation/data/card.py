"""Data cards: where a data set is, what its labels mean, and how it is divided.

A recipe's `data:` entry (`DatasetConfig`) names a card or states the same facts inline; `resolve` joins the two into
one complete, checked description that readers and the store work from. Charge, spin, units and level of theory are
stated, never assumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.config import JsonDict

from foundation.config import Config, load_yaml, merge, nearest, validate
from foundation.data.conformers import ConformerConfig
from foundation.data.fields import LabelField, LabelOverride, NumberField, PropertyName, check_labels
from foundation.data.files import (
    PACKAGE_PREFIX,
    DataFile,
    Format,
    Paths,
    data_root,
    expand_source,
    find_files,
    is_data_file,
)
from foundation.data.layout import ArraysConfig, Download, GroupConfig, IsolatedAtomsConfig
from foundation.data.splits import SplitConfig
from foundation.errors import InputError
from foundation.properties import PROPERTIES
from foundation.resources import data_cards_dir

__all__ = [
    "PACKAGE_PREFIX",
    "ArraysConfig",
    "DataCard",
    "DataFile",
    "DatasetConfig",
    "Download",
    "GroupConfig",
    "IsolatedAtomsConfig",
    "ResolvedDataset",
    "card_names",
    "data_root",
    "load_card",
    "resolve",
]

Charge = float | NumberField | Literal["formal"]
Spin = int | NumberField | Literal["formal"]
Dispersion = Literal["included", "lacking", "unknown"]
"""Whether energies, forces and stresses contain dispersion: by the method itself (coupled cluster, a functional with
non-local correlation) or by a correction to it (D3, D4, MBD, TS, …)."""
_KNOWN_PROPERTIES: JsonDict = {"propertyNames": {"enum": [*sorted(PROPERTIES)]}}


class _Facts(Config):
    """What a card states and a recipe may override."""

    source: Paths | dict[Literal["train", "val", "test"], Paths] | None = None
    format: Format | None = None
    arrays: ArraysConfig | None = None
    smiles_key: str | None = None
    split_key: str | None = None
    pbc: bool | None = None
    hydrogens: Literal["add", "as_given"] | None = None
    conformers: ConformerConfig | None = None
    level_of_theory: str | None = None
    dispersion: Dispersion | None = None
    charge: Charge | None = None
    spin: Spin | None = None
    isolated_atoms: IsolatedAtomsConfig | None = None
    group: GroupConfig | None = None
    split: SplitConfig | None = None
    limit: int | None = Field(default=None, ge=1)


class DatasetConfig(_Facts):
    """One entry of a recipe's `data:`: a card with overrides, or everything inline.

    Attributes:
        card: Name of a shipped card (`rmd17/aspirin`) or path of a card file.
        source: File, files, a pattern with `*`, or {train: …, val: …, test: …}; from the working directory.
        format: Of all files; told by each file's ending if left out.
        arrays: Where the structure stands in npz and parquet files.
        smiles_key: Column of the SMILES in csv, parquet; key of the SMILES in other formats, if they state one.
        split_key: Key under which each structure states its split.
        pbc: Replaces what the file says about periodicity (for boxes that are only drawn round molecules).
        hydrogens: sdf: `add` the implicit ones with coordinates, or take the atoms `as_given`.
        conformers: How structures are made of SMILES.
        level_of_theory: Method and basis, or assay; labels of different levels are told apart by it.
        dispersion: Whether energies, forces and stresses contain it; has to be stated only where a model adds it.
        charge: Total charge in e, {key: …}, or `formal` (of the SMILES or SDF record).
        spin: Multiplicity 2S+1, {key: …}, or `formal` (radical electrons + 1).
        properties: Property -> its key, unit and convention.
        isolated_atoms: Reference energies, if known.
        group: What a split by group keeps together.
        split: How structures are divided.
        limit: Read only the first structures of each file.
        store: Instead of all the above: a prepared store, a folder or an address that fsspec opens; with `split` only.
        weight: Share in a mixture, relative to the other data sets.
    """

    card: str | None = None
    properties: dict[PropertyName, LabelOverride] | None = Field(default=None, json_schema_extra=_KNOWN_PROPERTIES)
    store: str | None = None
    weight: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check_labels(self) -> DatasetConfig:
        """Without a card the labels are complete and can be checked where the recipe is read."""
        if self.card is None and self.properties is not None:
            keyless = [name for name, field in self.properties.items() if field.key is None]
            if keyless:
                raise InputError([f"properties: {name}: key: missing; it has to be given" for name in keyless])
            labels = {name: LabelField(**field.model_dump()) for name, field in self.properties.items()}
            check_labels(labels)
        return self


class _Labelled(_Facts):
    """Facts whose labels are complete."""

    properties: dict[PropertyName, LabelField] | None = Field(default=None, json_schema_extra=_KNOWN_PROPERTIES)

    @field_validator("properties")
    @classmethod
    def _check_labels(cls, value: dict[str, LabelField] | None) -> dict[str, LabelField] | None:
        check_labels(value or {})
        return value


class DataCard(_Labelled):
    """A file in data_cards/: the facts of a `DatasetConfig` and where they come from.

    Attributes:
        description: One or two sentences.
        licence: SPDX name, or what is known.
        citation: Papers to cite.
        urls: Public origin.
        checksums: File under the data root -> sha256 of the file that this card was tested on; any other is an error.
        elements: Symbols that occur.
        num_structures: Structures that the reader gives.
        caveats: What a user has to know.
    """

    description: str
    licence: str
    citation: tuple[str, ...]
    urls: tuple[Download, ...]
    checksums: dict[str, str] = Field(default_factory=dict)
    elements: tuple[str, ...]
    num_structures: int = Field(ge=1)
    caveats: tuple[str, ...] = ()


class ResolvedDataset(Config):
    """A complete description of one data set; attributes as in `DatasetConfig`.

    Attributes:
        name: The card's name, or what the recipe calls it.
        files: What to read, in order.
        isolated_atoms_file: Absolute path, if reference energies come from a file.
        licence: Of the card, "not stated" inline.
        citation: Of the card.
        store: Where the store is, if it is not made of files here.
        checksums_skipped: Whether the user's own source replaced the card's, so that nothing is known of its content.
    """

    name: str
    files: tuple[DataFile, ...]
    format: Format | None
    arrays: ArraysConfig | None
    smiles_key: str | None
    split_key: str | None
    pbc: bool | None
    hydrogens: Literal["add", "as_given"]
    conformers: ConformerConfig
    level_of_theory: str
    dispersion: Dispersion
    charge: Charge
    spin: Spin
    properties: dict[PropertyName, LabelField]
    isolated_atoms: IsolatedAtomsConfig | None
    isolated_atoms_file: Path | None
    group: GroupConfig | None
    split: SplitConfig
    limit: int | None
    licence: str
    citation: tuple[str, ...]
    checksums_skipped: bool
    store: str | None = None


def card_names() -> tuple[str, ...]:
    """Names of the shipped cards, such as `rmd17/aspirin`."""
    folder = data_cards_dir()
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")))


def load_card(name: str | Path) -> DataCard:
    """Read a shipped card by name, or a card file by path.

    Raises:
        InputError: No such card, or it does not fit the schema.
    """
    return validate(DataCard, _card_facts(str(name)), where=f"card '{name}'")


def resolve(config: DatasetConfig, *, name: str | None = None) -> ResolvedDataset:
    """Join a recipe's entry with its card, find the files and check that nothing is left open.

    Args:
        config: The entry.
        name: What the recipe calls it; names it in errors if it has no card.

    Raises:
        InputError: Facts are missing, a file does not exist, or the card is unknown.
    """
    if config.store is not None:
        from foundation.data.stored import resolve_stored  # here: it needs the readers, and they need descriptions

        return resolve_stored(config, name=name)
    called = config.card or name or "data"
    card = {} if config.card is None else _card_facts(config.card)
    own = config.model_dump(mode="json", exclude_unset=True, exclude={"card", "weight"})
    own = {key: value for key, value in own.items() if value is not None}
    facts = merge({key: value for key, value in card.items() if key in _Labelled.model_fields}, own)
    facts |= {key: own[key] for key in ("source", "isolated_atoms", "group") if key in own}
    if own.get("split", {}).get("folds") is not None and "test" not in own["split"]:
        facts["split"].pop("test", None)  # the fold replaces the card's test set
    checked = validate(_Labelled, facts, where=f"data '{called}'")
    _check_complete(checked, called)
    assert checked.source is not None and checked.level_of_theory is not None  # noqa: PT018
    assert checked.charge is not None and checked.spin is not None and checked.properties is not None  # noqa: PT018
    from_card = "source" not in own
    checksums: dict[str, str] = dict(card.get("checksums", {})) if from_card else {}
    files = find_files(
        checked.source, stated=checked.format, checksums=checksums, from_card=from_card, card=card, called=called
    )
    atoms = checked.isolated_atoms
    atoms_file = None
    if atoms is not None and atoms.source is not None:
        atoms_file = expand_source(atoms.source, from_card="isolated_atoms" not in own, card=card, called=called)[0]
    return ResolvedDataset(
        name=called,
        files=files,
        format=checked.format,
        arrays=checked.arrays,
        smiles_key=checked.smiles_key,
        split_key=checked.split_key,
        pbc=checked.pbc,
        hydrogens=checked.hydrogens or "add",
        conformers=checked.conformers or ConformerConfig(),
        level_of_theory=checked.level_of_theory,
        dispersion=checked.dispersion or "unknown",
        charge=checked.charge,
        spin=checked.spin,
        properties=checked.properties,
        isolated_atoms=atoms,
        isolated_atoms_file=atoms_file,
        group=checked.group,
        split=checked.split or SplitConfig(),
        limit=checked.limit,
        licence=card.get("licence", "not stated"),
        citation=tuple(card.get("citation", ())),
        checksums_skipped=not checksums,
    )


def _card_facts(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_yaml(path)
    shipped = data_cards_dir() / f"{name}.yaml"
    if shipped.is_file():
        return load_yaml(shipped)
    if path.is_file() or is_data_file(path):
        raise InputError(f"{name} is data, not a card; a card ends in .yaml and says what the data are")
    close = nearest(name, card_names())
    hint = f"; nearest: '{close}'" if close else ""
    raise InputError(f"no card '{name}'{hint}; shipped cards: {', '.join(card_names())}; or a path that ends in .yaml")


def _check_complete(facts: _Labelled, called: str) -> None:
    wanted = {
        "source": "the file or files",
        "level_of_theory": "for example PBE/def2-SVP",
        "charge": "total charge in e, {key: …}, or formal; it is never assumed",
        "spin": "multiplicity 2S+1, {key: …}, or formal; it is never assumed",
        "properties": "property: {key: …, unit: …}; {} if there are no labels",
    }
    missing = [
        f"data '{called}': {key}: missing; it has to be given ({meaning})"
        for key, meaning in wanted.items()
        if getattr(facts, key) is None
    ]
    if missing:
        raise InputError(missing)
