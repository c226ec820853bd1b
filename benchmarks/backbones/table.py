"""Results as markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.backbones.results import read_results
from benchmarks.backbones.rows import CASES, NUM_ATOMS
from foundation.wording import counted

__all__ = ["tables"]

SMALLEST_BOX, LARGEST_BOX = "water192", "water12288"
TIMES_S = (300, 600, 1200, 1800, 3600, 7200, 10800)


def tables(results: Path) -> str:
    """All tables: errors at some CPU times, and speed case by case."""
    curves = read_results(results, kind="curve")
    sets = dict.fromkeys((lines[0]["data"]["molecule"], lines[0]["data"]["train"]) for lines in curves.values())
    parts = [_curve_table(curves, molecule=molecule, train=train) for molecule, train in sets]
    speed = [line for lines in read_results(results, kind="speed").values() for line in lines]
    parts += [_speed_table(case, [line for line in speed if line["case"] == case]) for case in CASES]
    turns = [_turns_table(lines) for lines in read_results(results, kind="turns").values()]
    ablations = _ablation_table(read_results(results, kind="ablation"))
    return "\n\n".join(part for part in (*parts, _scaling_table(speed), *turns, ablations) if part)


def _curve_table(curves: Mapping[str, Sequence[Mapping[str, Any]]], *, molecule: str, train: int) -> str:
    """The rows of one training set."""
    chosen = {
        name: lines
        for name, lines in curves.items()
        if (lines[0]["data"]["molecule"], lines[0]["data"]["train"]) == (molecule, train)
    }
    has_hot = any("hot_frames" in lines[-1] for lines in chosen.values())
    header = [
        "row",
        *(f"{time // 60} min" for time in TIMES_S),
        "end",
        *(["end, RMSE", "hot, MAE", "hot, RMSE"] if has_hot else []),
        "CPU s",
        "wall s",
        "steps",
        "energy meV",
        "commit",
    ]
    rows = []
    for name, lines in chosen.items():
        last = lines[-1]
        others = ("forces_rmse_meV_per_A", "hot_forces_mae_meV_per_A", "hot_forces_rmse_meV_per_A")
        rows.append(
            [
                name,
                *(_error_at(lines, time) for time in TIMES_S),
                f"{last['forces_mae_meV_per_A']:.2f}",
                *([f"{last[key]:.2f}" for key in others] if has_hot else []),
                f"{last['cpu_s']:.0f}",
                f"{last['wall_s']:.0f}",
                str(last["steps"]),
                f"{last['energy_mae_meV']:.2f}",
                last["commit"],
            ]
        )
    title = f"{molecule}, {train} labels: force MAE, meV/Å, after so many CPU minutes (the last weights kept by then)"
    return f"### {title}\n\n{_markdown(header, rows)}"


def _error_at(lines: Sequence[Mapping[str, Any]], cpu_s: float) -> str:
    """The error of the last weights kept by a time; a dash if there are none, or training was over before."""
    before = [line for line in lines if line["cpu_s"] <= cpu_s]
    if not before or lines[-1]["cpu_s"] < 0.8 * cpu_s:
        return "–"
    return f"{before[-1]['forces_mae_meV_per_A']:.2f}"


def _ablation_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Design choices: errors on each set, and the CPU seconds of all trainings that the row has."""
    if not rows:
        return ""
    columns = [
        ("N=50: forces MAE", "n50", "forces_mae_meV_per_A"),
        ("energy MAE", "n50", "energy_mae_meV"),
        ("N=950: forces MAE", "n950", "forces_mae_meV_per_A"),
        ("energy MAE", "n950", "energy_mae_meV"),
        ("3BPA 300 K: forces RMSE", "3bpa", "forces_rmse_meV_per_A"),
        ("hot: forces RMSE", "3bpa", "hot_forces_rmse_meV_per_A"),
    ]
    body = []
    for name, lines in rows.items():
        of_set = {line["set"]: line for line in lines}
        cells = [f"{of_set[one][key]:.1f}" if one in of_set else "–" for _, one, key in columns]
        seconds = " / ".join(f"{of_set[one]['cpu_s']:.0f}" if one in of_set else "–" for one in ("n50", "n950", "3bpa"))
        body.append([name, *cells, seconds])
    return f"### Design choices\n\n{_markdown(['row', *(title for title, _, _ in columns), 'CPU s'], body)}"


def _speed_table(case: str, lines: Sequence[Mapping[str, Any]]) -> str:
    if not lines:
        return ""
    per = "molecules/s" if case == "train8" else "µs/atom"
    header = [
        "row",
        "threads",
        "allocator",
        "ms (quartiles)",
        per,
        "peak MiB",
        "GFLOP",
        "arithmetic ×",
        "GB",
        "memory ×",
    ]
    rows = [[line["row"], str(line["threads"]), line["allocator"], *_speed_cells(line)] for line in lines]
    return f"### {case}\n\n{_markdown(header, rows)}"


def _scaling_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """By which power of the number of atoms the time grows from the smallest to the largest water box."""
    times = {
        (line["row"], line["threads"], line["allocator"], line["case"]): line["median_ms"]
        for line in lines
        if "failed" not in line
    }
    rows = []
    for (row, threads, allocator, case), largest in times.items():
        smallest = times.get((row, threads, allocator, SMALLEST_BOX))
        if case == LARGEST_BOX and smallest is not None:
            exponent = math.log(largest / smallest) / math.log(NUM_ATOMS[LARGEST_BOX] / NUM_ATOMS[SMALLEST_BOX])
            rows.append([row, str(threads), allocator, f"{exponent:.3f}"])
    header = ["row", "threads", "allocator", f"cost exponent, {SMALLEST_BOX} to {LARGEST_BOX}"]
    return f"### Scaling\n\n{_markdown(header, rows)}" if rows else ""


def _turns_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Rows whose processes took turns."""
    first = lines[0]
    header = ["row", "fastest ms", "median ms", "times as fast (quartiles)", "commit"]
    rows = [
        [
            line["name"],
            f"{line['fastest_ms']:.2f}",
            f"{line['median_ms']:.2f}",
            f"{line['times_as_fast']:.3f} ({line['lower_quartile']:.3f}–{line['upper_quartile']:.3f})",
            line["commit"],
        ]
        for line in lines
    ]
    threads, turns = counted(first["threads"], "thread"), counted(first["rounds"], "turn")
    title = f"{first['case']}, {threads}, {turns} each, compared with {first['name']}"
    return f"### {title}\n\n{_markdown(header, rows)}"


def _speed_cells(line: Mapping[str, Any]) -> list[str]:
    if "failed" in line:
        return [line["failed"], *["–"] * 6]
    quartiles = f"{line['median_ms']:.2f} ({line['lower_quartile_ms']:.2f}–{line['upper_quartile_ms']:.2f})"
    rate = line["molecules_per_s"] if line["case"] == "train8" else line["us_per_atom"]
    cells = [quartiles, f"{rate:.4g}", f"{line['peak_rss_mib']:.0f}"]
    if line["gflop"] is None:
        return [*cells, *["–"] * 4]
    return [
        *cells,
        f"{line['gflop']:.3g}",
        f"{line['times_arithmetic_limit']:.1f}",
        f"{line['gbyte']:.3g}",
        f"{line['times_memory_limit']:.1f}",
    ]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
