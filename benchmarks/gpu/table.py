"""Results as markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.backbones.results import read_results

__all__ = ["tables"]


def tables(folder: Path) -> str:
    """One line a row and case; what failed or was left out says why."""
    rows = read_results(folder, kind="gpu")
    if not rows:
        return f"no results in {folder}"
    lines = [
        "| row | case | ms | structures/s | µs/atom | peak MB | GFLOP/s | error of forces |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = []
    for row, found in rows.items():
        for line in found:
            if "forces_mae_meV_per_A" in line:
                runs.append(_run(line))
            elif "failed" in line:
                lines.append(f"| {row} | {line['case']} | {line['failed']} |" + " |" * 5)
            else:
                lines.append(f"| {row} | {line['case']} | {' | '.join(_figures(line))} |")
    if runs:
        lines += ["", "| command | seconds | force MAE meV/Å | energy MAE meV | test frames |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *runs])


def _figures(line: dict[str, Any]) -> list[str]:
    return [
        f"{line['median_ms']:.2f}",
        f"{line['structures_per_s']:.0f}",
        f"{line['us_per_atom']:.2f}",
        _or_dash(line.get("peak_mbyte"), ".0f"),
        _or_dash(line.get("gflop_per_s"), ".0f"),
        _or_dash(line.get("forces_difference"), ".1e"),
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _run(line: dict[str, Any]) -> str:
    errors = f"{line['forces_mae_meV_per_A']:.1f} | {line['energy_mae_meV']:.1f} | {line['test_frames']}"
    return f"| `{line['command']}` | {line['wall_s']:.0f} | {errors} |"
