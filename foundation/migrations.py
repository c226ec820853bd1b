"""Stepwise migrations of a stored model from the format version that wrote it to today's.

Each step turns version n into n + 1 and is never changed afterwards; a stored model of every version is among the
tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foundation.errors import InputError

FORMAT_VERSION = 3
"""What `foundation.checkpoint` writes."""

Document = dict[str, Any]
"""`config.json` as it was read."""
Tensors = dict[str, Tensor]
Step = Callable[[Document, Tensors], tuple[Document, Tensors]]
"""Turns the document and the tensors of one version into those of the next; `format_version` is raised for it."""


def _with_backbone(document: Document, change: Callable[[Document], Document]) -> Document:
    """Change what is said of an equivariant backbone; what is not as it should be is for the validation to say."""
    model = document.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(backbone, dict) and backbone.get("kind") == "equivariant":
        document = {**document, "model": {**model, "backbone": change(backbone)}}
    return document


def _radial_network_at_every_edge(document: Document, tensors: Tensors) -> tuple[Document, Tensors]:
    """1 to 2: the equivariant backbone evaluates its radial network at knots, unless it is told not to as here."""
    return _with_backbone(document, lambda backbone: {**backbone, "radial_spacing": None}), tensors


def _radial_functions_for_all_elements(document: Document, tensors: Tensors) -> tuple[Document, Tensors]:
    """2 to 3: elements scale the radial network, and sums of degree 3 enter the products, unless it says otherwise."""
    earlier = {"radial_elements": False, "product_degree": 2}
    return _with_backbone(document, lambda backbone: {**earlier, **backbone}), tensors


STEPS: Mapping[int, Step] = {1: _radial_network_at_every_edge, 2: _radial_functions_for_all_elements}
"""The version that a step starts from -> the step."""


def migrate(
    document: Document,
    tensors: Tensors,
    *,
    where: str,
    steps: Mapping[int, Step] = STEPS,
    target: int = FORMAT_VERSION,
) -> tuple[Document, Tensors]:
    """Bring a stored model to version `target`, one step after another.

    Args:
        document: `config.json`, of any version.
        tensors: The weights, by name.
        where: The file, for errors.
        steps: Version -> step to the next one.
        target: The version that is wanted.

    Returns:
        The document and the tensors of version `target`.

    Raises:
        InputError: The version is missing, not a number, newer than `target`, or one that no step leads away from.
    """
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{where}: format_version: got {version!r}; allowed: a whole number from 1 to {target}")
    if version > target:
        raise InputError(
            f"{where}: format_version: got {version}; allowed: 1 to {target}. A newer foundation wrote this model: "
            "update foundation (git pull, pip install .)"
        )
    for start in range(version, target):
        if start not in steps:
            raise InputError(f"{where}: no migration leads from format_version {start} to {start + 1}")
        document, tensors = steps[start](dict(document), dict(tensors))
        document = {**document, "format_version": start + 1}
    return document, tensors
