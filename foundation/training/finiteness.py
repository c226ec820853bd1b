"""What to tell of a loss that is not finite: whose it is, and what is likely to be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from foundation.model import FoundationModel

PARTLY_UNDEFINED: Mapping[str, str] = {
    "dipole": "the dipole of periodic structures from partial charges",
    "quadrupole": "the second moment of periodic structures from partial charges",
    "polarizability": "the polarizability of periodic structures from partial charges",
    "stress": "the stress of structures that do not repeat in all three directions",
}
"""Property -> where a model predicts NaN, as no number would be right."""


def not_finite(
    named: Mapping[str, float], *, stage: str, when: str, tasks: Mapping[str, str], model: FoundationModel
) -> str | None:
    """Say why training cannot go on, if it cannot.

    Args:
        named: Logged name -> loss: `{stage}/loss`, and `{stage}/{task}_loss` where labels were seen.
        stage: `train` or `val`.
        when: For the message, as in "after step 3".
        tasks: Name of each objective -> property that it compares.
        model: Whose weights may have become infinite.

    Returns:
        None if all losses are finite.
    """
    if all(math.isfinite(loss) for loss in named.values()):
        return None
    losses = {task: named[f"{stage}/{task}_loss"] for task in tasks if f"{stage}/{task}_loss" in named}
    bad = {task: loss for task, loss in losses.items() if not math.isfinite(loss)}
    sound = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    unpredictable = {t: PARTLY_UNDEFINED[tasks[t]] for t in bad if math.isnan(bad[t]) and tasks[t] in PARTLY_UNDEFINED}
    advice = []
    if sound and unpredictable:
        advice += [
            f"'{task}': labels that the model cannot give? It has no number for {case}; take these labels out"
            for task, case in unpredictable.items()
        ]
    if not sound or len(unpredictable) < len(bad):
        advice.append("lower optimizer.learning_rate or set trainer.gradient_clip_val")
    shown = ", ".join(f"'{task}' ({loss})" for task, loss in bad.items())
    return f"the {stage} loss is not finite {when}: {shown or named[f'{stage}/loss']}; {'; '.join(advice)}"
