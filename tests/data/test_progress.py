"""Progress of reading: a bar on a terminal, lines in a log, nothing of sources that are read in moments."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from foundation.cli import main
from foundation.data import progress

CARD = """
description: Hydrogen.
licence: CC0-1.0
citation: []
urls: []
source: {source}
level_of_theory: PBE
charge: 0
spin: 1
properties: {{energy: {{key: energy, unit: eV}}}}
elements: [H]
num_structures: 3
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    source, path = tmp_path / "h2.xyz", tmp_path / "h2.yaml"
    source.write_text("2\nenergy=-1\nH 0 0 0\nH 0 0 0.7\n" * 3, encoding="utf-8")
    path.write_text(CARD.format(source=source), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("action", "line"),
    [("check", "reading {}: 3 of 3 structures, 0 s"), ("prepare", "preparing {}: 3 structures, 0 s")],
)
def test_a_log_gets_a_line_every_so_often(
    card: Path, action: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert main(["data", action, str(card)]) == 0
    found = capsys.readouterr()
    assert found.err.splitlines()[-1] == line.format(card)
    assert len(found.err.splitlines()) == 3
    assert ", 0 s" not in found.out


def test_what_is_read_in_moments_is_not_reported(card: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", str(card)]) == 0
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with progress.shown_progress("reading x", total=3, console=console) as advance:
        for _ in range(3):
            advance()
    assert "reading x" in screen.getvalue()
    assert "3/3" in screen.getvalue()
