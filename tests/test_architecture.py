"""The layout of docs/architecture.md, read from the source: floors, small files, no code in data, no vague names."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "foundation"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))

FLOORS = {
    0: {
        "units",
        "properties",
        "config",
        "compiler_cache",
        "config_problems",
        "config_schema",
        "devices",
        "elements",
        "errors",
        "resources",
        "threads",
        "wording",
    },
    1: {"data", "nn", "features"},
    2: {"backbones", "heads", "electrostatics", "physics", "scaling", "derive", "by_level"},
    3: {"model", "compilation", "compiled_check", "predict"},
    4: {"checkpoint", "cost", "migrations", "hub", "training", "transfer", "uncertainty"},
    5: {"calculators", "recipe", "report"},
    6: {"run", "cli", "commands", "__main__"},
    7: {"testing"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
NEVER_MEET = [("training", "calculators"), ("calculators", "training"), ("heads", "backbones"), ("backbones", "heads")]

MAX_LINES = 400
VAGUE_NAME = re.compile(r"^(utils?|helpers?|misc|common|manager|.*_(utils?|helpers?|manager))$")
# Formats that run code when they are read.
EXECUTING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def room_of(path: Path) -> str:
    """The first part of the module's name under foundation, e.g. `data` for foundation/data/card.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute dotted name of every import, those inside functions included."""
    package = (*path.relative_to(REPOSITORY).parent.parts,)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    for line, module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "foundation" and len(parts) > 1 and parts[1] in FLOOR_OF:
            yield line, parts[1]


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def keyword_is(call: ast.Call, name: str, value: object) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def test_every_room_has_a_floor() -> None:
    homeless = sorted({room_of(path) for path in SOURCES} - FLOOR_OF.keys() - {"__init__"})
    assert not homeless, f"give these a floor in {name_of(Path(__file__))}: {homeless}"


def test_the_table_of_floors_names_every_room() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, flags=re.MULTILINE)
    told = {room.rstrip("/"): int(floor) for floor, rooms in rows for room in re.findall(r"`([\w/]+)`", rooms)}
    assert told == {room: FLOOR_OF[room] for room in {room_of(path) for path in SOURCES} - {"__init__"}}


def test_imports_go_downward_only() -> None:
    upward = [
        f"{name_of(path)}:{line}: floor {FLOOR_OF[room_of(path)]} imports {room} from floor {FLOOR_OF[room]}"
        for path in SOURCES
        if room_of(path) != "__init__"
        for line, room in imported_rooms(path)
        if FLOOR_OF[room] > FLOOR_OF[room_of(path)]
    ]
    assert not upward, "\n".join(upward)


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle() -> None:
    above: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for path in SOURCES:
        if room_of(path) != "__init__":
            above[room_of(path)] |= {room for _, room in imported_rooms(path)} - {room_of(path)}
    while free := [room for room, needs in above.items() if not needs]:
        for room in free:
            del above[room]
        for needs in above.values():
            needs.difference_update(free)
    assert not above, f"these rooms import each other: {above}"


@pytest.mark.parametrize(("room", "other"), NEVER_MEET)
def test_rooms_that_never_meet(room: str, other: str) -> None:
    meetings = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if room_of(path) == room
        for line, imported in imported_rooms(path)
        if imported == other
    ]
    assert not meetings, f"{room} imports {other}: {meetings}"


def test_files_are_small() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES + TESTS}
    long = {name: length for name, length in lengths.items() if length >= MAX_LINES}
    assert not long, f"over {MAX_LINES} lines; one concept a file: {long}"


def test_files_are_named_for_what_they_hold() -> None:
    vague = [
        name_of(path) for path in SOURCES + TESTS if any(VAGUE_NAME.match(p) for p in path.with_suffix("").parts[-2:])
    ]
    assert not vague, f"name these for what they hold: {vague}"


def test_init_files_only_reexport() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.If)
    strangers = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if path.name == "__init__.py"
        for node in tree(path).body
        if not isinstance(node, allowed)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__"})
    ]
    assert not strangers, f"an __init__.py only re-exports: {strangers}"


def test_nothing_that_is_loaded_can_run_code() -> None:
    faults = [
        f"{name_of(path)}:{line}: imports {module}"
        for path in SOURCES + TESTS
        for line, module in imported_modules(path)
        if module.split(".")[0] in EXECUTING_MODULES
    ]
    for path in SOURCES + TESTS:
        for call, function in calls(path):
            where = f"{name_of(path)}:{call.lineno}: {function}"
            if function == "torch.load" and not keyword_is(call, "weights_only", True):
                faults.append(f"{where} without weights_only=True")
            if function in {"np.load", "numpy.load"} and keyword_is(call, "allow_pickle", True):
                faults.append(f"{where} with allow_pickle=True")
            if function in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "__import__"}:
                faults.append(f"{where} can run what it reads")
    assert not faults, "\n".join(faults)


def test_keyword_catchalls_only_pass_through() -> None:
    """A `**kwargs` that is looked into, or at nothing at all, swallows misspelt options of a public function."""
    faults = []
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.args.kwarg is None:
                continue
            if node.name.startswith("_") and not node.name.startswith("__"):
                continue
            name = node.args.kwarg.arg
            inside = [child for statement in node.body for child in ast.walk(statement)]
            passed = [
                k.value
                for child in inside
                if isinstance(child, ast.Call)
                for k in child.keywords
                if k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name
            ]
            used = [child for child in inside if isinstance(child, ast.Name) and child.id == name]
            if not passed or len(passed) != len(used):
                faults.append(f"{name_of(path)}:{node.lineno}: {node.name}(**{name})")
    assert not faults, f"pass **kwargs straight on or name the options: {faults}"


def test_no_attribute_probing() -> None:
    probes = [f"{name_of(p)}:{call.lineno}" for p in SOURCES for call, function in calls(p) if function == "hasattr"]
    assert not probes, f"ask for a type, not for an attribute: {probes}"


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in SOURCES + TESTS if tree(path).body and ast.get_docstring(tree(path)) is None]
    assert not silent, f"a first line that says what the file holds is missing: {silent}"


def test_no_unfinished_work() -> None:
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    marked = [name_of(path) for path in SOURCES + TESTS if marker.search(path.read_text(encoding="utf-8"))]
    assert not marked, f"finish it, or open an issue: {marked}"
