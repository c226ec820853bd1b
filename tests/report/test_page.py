"""report.html: one self-contained page from a finished, a running or a broken run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from foundation.errors import InputError
from foundation.report import write_report

VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "circle", "path"}


class Page(HTMLParser):
    """Tags with attributes and the text of a page; balanced or it fails."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_finished_run_shows_every_section(finished_run: Path) -> None:
    page = Page(write_report(finished_run))
    wanted = ["Errors", "Parity plots", "Classification", "Learning curves", "Pretraining", "Data and tasks", "Model"]
    wanted += ["Reference energies", "Initialisation", "Environment and timing", "Recipe"]
    for title in wanted:
        assert title in page.text
    assert "A model of 194 k parameters for energy, forces, dipole, handedness and site of metabolism" in page.text
    assert "1 600 training structures" in page.text
    assert "Finished after 4 min 05 s" in page.text
    assert "ridge least squares over the 900 training structures" in page.text
    assert "is not there" not in page.text


def test_errors_are_those_of_the_evaluation_with_unit_and_constant_guess(finished_run: Path) -> None:
    page = Page(write_report(finished_run))
    evaluation = json.loads((finished_run / "evaluation.json").read_text(encoding="utf-8"))
    mae = evaluation["test"]["spice/dipeptides"]["forces"]["mae"]
    with np.load(finished_run / "predictions" / "test__spice_dipeptides.npz") as arrays:
        zero = float(np.abs(arrays["forces__target"]).mean())
    assert f"{1000 * mae:.1f} meV/Å forces MAE, test" in page.text
    assert re.search(
        rf"forces {1000 * mae:.1f} \S+ meV/Å {1000 * zero:.0f} \(zero\) {100 * mae / zero:.1f} %", page.text
    )
    assert "accuracy" in page.text
    assert "top-2 69.0 %" in page.text


def test_the_page_needs_nothing_from_outside(finished_run: Path) -> None:
    path = write_report(finished_run)
    page = Page(path)
    referring = [
        value for _, a in page.tags for key, value in a.items() if key in ("src", "href", "xlink:href", "action")
    ]
    assert all(value is not None and value.startswith("#") for value in referring)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|<link|<iframe", text)
    assert set(re.findall(r"https?://[^\"' )]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert path.stat().st_size < 1_000_000


def test_the_page_is_accessible(finished_run: Path) -> None:
    page = Page(write_report(finished_run))
    assert page.all("html")[0]["lang"] == "en"
    drawings = page.all("svg")
    assert len(drawings) > 10
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{name}" for name in ids}


def test_a_running_job_shows_its_curves_and_says_what_is_not_there_yet(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "running"
    run.mkdir()
    for name in ("recipe.yaml", "metrics.csv"):
        shutil.copy(finished_run / name, run / name)
    page = Page(write_report(run))
    assert "Not finished: still running, or interrupted; last seen at step 1 200, epoch 40" in page.text
    assert "evaluation.json is not there" in page.text
    assert "predictions is not there" in page.text
    assert "best validation so far, step 1 200" in page.text
    assert len(page.all("svg")) > 5


def test_a_run_that_has_only_its_recipe_yet_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {}\ntasks: {}\n", encoding="utf-8")
    assert "Nothing has been logged yet" in Page(write_report(tmp_path)).text


@pytest.mark.parametrize(
    "name", ["summary.json", "evaluation.json", "recipe.yaml", "predictions/test__enantiomers.npz"]
)
def test_a_file_cut_off_in_the_middle_is_said_and_the_rest_is_shown(finished_run: Path, name: str) -> None:
    path = finished_run / name
    content = path.read_bytes() if name != "recipe.yaml" else b"tasks: {energy: [\n" + path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    page = Page(write_report(finished_run))
    assert re.search(rf"{re.escape(name)} (is not whole|does not parse|could not be read)", page.text)
    assert len(page.all("svg")) > 10


def test_a_diverged_run_is_shown_as_one(finished_run: Path) -> None:
    path = finished_run / "predictions" / "test__spice_dipeptides.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["forces__prediction"][:7] = np.nan
    arrays["dipole__prediction"][:] = np.inf
    np.savez(path, **arrays)
    evaluation = json.loads((finished_run / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["test"]["spice/dipeptides"]["dipole"]["mae"] = float("nan")
    (finished_run / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    page = Page(write_report(finished_run))
    assert "21 predictions not finite" in page.text
    assert "not finite e·Å dipole MAE, test" in page.text


def test_names_cannot_become_markup(finished_run: Path) -> None:
    hostile = '<script>alert("x")</script>'
    for name in ("summary.json", "evaluation.json", "recipe.yaml", "metrics.csv"):
        path = finished_run / name
        text = path.read_text(encoding="utf-8")
        written = json.dumps(hostile)[1:-1] if name.endswith("json") else hostile.replace('"', "'")
        path.write_text(text.replace("enantiomers", written), encoding="utf-8")
    page = Page(write_report(finished_run))
    assert len(page.all("script")) == 1
    assert hostile in page.text


def test_the_page_can_be_written_elsewhere_and_leaves_no_other_file(finished_run: Path, tmp_path: Path) -> None:
    before = sorted(finished_run.rglob("*"))
    out = tmp_path / "page.html"
    assert write_report(finished_run, out=out) == out
    assert sorted(finished_run.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_not_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"run directory '.*{name}'"):
        write_report(tmp_path / name)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_property_that_no_task_learns_is_marked_and_kept_out_of_the_headline(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text(encoding="utf-8"))
    del summary["tasks"]["dipole"]
    (finished_run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = Page(write_report(finished_run)).text
    assert "dipole (not learnt)" in text
    assert "dipole MAE, test" not in text
    assert "forces MAE, test" in text
