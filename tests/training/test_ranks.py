"""Two and four processes compute what one does on the same global batches, whichever rank holds which label."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.processes import Program

PROGRAM = Path(__file__).with_name("ranks.py")
TIMEOUT_SECONDS = 400
"""Only there so that ranks that wait for each other fail the test instead of stopping it; it takes half a minute."""
TOLERANCE = 1e-6
ROUNDING = 1e-12
"""Of the largest tensor of a step: what is smaller than its rounding has no relative error."""

Results = dict[str, torch.Tensor]


def train(folder: Path) -> dict[str, dict[str, Results]]:
    """Case -> number of ranks and rank -> gradients of every step, last weights, metrics."""
    program = Program(PROGRAM, str(folder / "results"), folder=folder)
    assert program.wait(seconds=TIMEOUT_SECONDS) == 0, program.err[-4000:]
    assert "sync_dist" not in program.err
    return {
        case.name: {path.stem: load_file(path) for path in case.iterdir()} for case in (folder / "results").iterdir()
    }


def assert_close_norms(got: Results, expected: Results, *, prefix: str) -> None:
    """Each tensor's difference is small beside the tensor."""
    names = [name for name in expected if name.startswith(prefix)]
    assert names
    largest = max(float(expected[name].norm()) for name in names)
    for name in names:
        error, size = float((got[name] - expected[name]).norm()), float(expected[name].norm())
        assert error <= TOLERANCE * size + ROUNDING * largest, f"{name}: {error} beside {size}"


def test_gradients_metrics_and_losses_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    """One test: the processes take longer than all comparisons."""
    results = train(tmp_path)
    for case, num_steps in (("every batch", 20), ("accumulated", 4)):
        assert len(results[case]) == (7 if case == "every batch" else 3)
        compare_gradients(results[case], num_steps=num_steps)
        compare_metrics(results[case])
    check_unused_heads(results["every batch"]["4_3"])


def compare_gradients(results: dict[str, Results], *, num_steps: int) -> None:
    """Of every step, and the last weights."""
    alone = results["1_0"]
    for other in results.values():
        assert set(other) == set(alone)  # heads that no rank used have no gradient, so that no optimizer moves them
        for step in range(num_steps):
            assert_close_norms(other, alone, prefix=f"gradient {step:02d}")
        assert_close_norms(other, alone, prefix="weight")


def check_unused_heads(results: Results) -> None:
    """The heads that a step did not use have no gradient in it."""
    steps: dict[str, set[str]] = {head: set() for head in ("energy", "dipole", "handedness", "gap")}
    for name in results:
        for head, found in steps.items():
            if name.startswith("gradient") and f"heads.{head}." in name:
                found.add(name.split()[1])
    assert {head: len(found) for head, found in steps.items()} == {
        "energy": 10,  # in two of four batches
        "dipole": 15,
        "handedness": 15,
        "gap": 0,
    }


def compare_metrics(results: dict[str, Results]) -> None:
    """Errors and losses, those of all ranks of a run exactly."""
    alone = results["1_0"]
    metrics = [name for name in alone if name.startswith(("train/", "val/"))]
    assert {"val/forces_set/forces_mae_eV_per_A", "val/loss", "train/loss", "val/dipole_set/handedness_auc"} <= set(
        metrics
    )
    for ranks in {name[0] for name in results}:
        first = results[f"{ranks}_0"]
        for name in metrics:
            torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-7)
            for rank in range(1, int(ranks)):
                torch.testing.assert_close(results[f"{ranks}_{rank}"][name], first[name], rtol=0, atol=0)
