"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import otel_memoir
from otel_memoir.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "otel_memoir"

LAYERS = (
    ("cli", "instrumentation"),
    ("memory_log",),
    ("reflection", "sdk", "retrieval"),
    ("testing",),
    ("stamping", "delivery", "locks", "observe"),
    ("spool", "clock", "events"),
    ("settings",),
    ("setting_sources",),
    ("setting_layers", "setting_values", "settings_file"),
    ("errors", "diagnostics", "user_state"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The full names of all modules that a module imports, wherever it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    """The room of a module: its first folder, or its own name."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def upward_imports(path: Path, names: set[str]) -> list[str]:
    """Imports of a room above, or beside where rooms must not know each other."""
    here = room(path)
    if here == "__init__":
        return []
    rooms = {name.split(".")[1] for name in names if name.startswith("otel_memoir.")}
    return [r for r in rooms if r in LEVEL and r != here and LEVEL[r] < LEVEL[here]]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down_only(path: Path) -> None:
    """No room knows a room above it."""
    assert upward_imports(path, imports(path)) == []


def test_the_import_rule_sees_an_upward_import() -> None:
    """Negative control: the rule finds what it forbids."""
    assert upward_imports(SOURCE / "spool" / "store.py", {"otel_memoir.delivery.courier"})


def module_graph(paths: list[Path], top: Path) -> dict[str, set[str]]:
    """Which of some modules import which: for types, or inside a function, too."""
    names = {path: ".".join(path.relative_to(top).with_suffix("").parts) for path in paths}
    known = {name.removesuffix(".__init__"): name for name in names.values()}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                # ``from package import module`` is about the module, not about the package.
                longer = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [one if one in known else node.module for one in longer]
            else:
                continue
            graph.setdefault(name, set()).update(known[one] for one in wanted if one in known)
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, and the last the first; empty: there is none."""
    done: set[str] = set()

    def walk(trail: list[str]) -> list[str]:
        for after in sorted(graph.get(trail[-1], set()) - done):
            if after in trail:
                return trail[trail.index(after) :]
            if found := walk([*trail, after]):
                return found
        done.add(trail[-1])
        return []

    return next((found for name in sorted(graph) if (found := walk([name]))), [])


@pytest.mark.parametrize("folder", sorted({room(path) for path in modules()}))
def test_no_module_of_a_room_imports_one_that_imports_it(folder: str) -> None:
    """Not even for types: each room can be read from the bottom up."""
    paths = [path for path in modules() if room(path) == folder]
    assert circle(module_graph(paths, SOURCE.parent)) == []


def test_the_rule_of_circles_sees_one_that_is_for_types_only(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "low.py").write_text("if TYPE_CHECKING:\n    from house import high\n")
    (tmp_path / "high.py").write_text("def f():\n    import house.middle\n")
    (tmp_path / "middle.py").write_text("from house.low import name\n")
    house = tmp_path.rename(tmp_path.with_name("house"))
    found = circle(module_graph(sorted(house.iterdir()), house.parent))
    assert sorted(found) == ["house.high", "house.low", "house.middle"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_is_foreign_stays_in_its_room(path: Path) -> None:
    """sqlite3 in the spool and its couriers' errors, the unstable SDK signal in one module."""
    names = imports(path)
    if room(path) in ("spool", "clock"):
        outside = {n for n in names if n.startswith("opentelemetry")}
        assert not outside
    if path.name != "_compat.py":
        assert not any(n.startswith("opentelemetry.sdk._logs") for n in names)
    if room(path) != "spool":
        assert "sqlite3" not in names


def test_all_names_every_public_name() -> None:
    """`__all__` is sorted and true."""
    assert list(otel_memoir.__all__) == sorted(otel_memoir.__all__)
    for name in otel_memoir.__all__:
        assert hasattr(otel_memoir, name)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    """A module fits in a head, a function on a screen."""
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                assert (node.end_lineno or 0) - body[0].lineno < 40, node.name


def test_nobody_sleeps() -> None:
    """Every wait can be interrupted."""
    for path in [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("time.sleep", "sleep"), path


def test_importing_starts_no_thread_and_loads_no_transport() -> None:
    """What an application pays for that only has us installed."""
    code = (
        "import sys, threading, otel_memoir; "
        "print(threading.active_count(), 'grpc' in sys.modules, 'requests' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "False"]


@pytest.mark.parametrize("name", [
    "settings", pytest.param("operations", marks=pytest.mark.newest),
])
def test_the_pages_are_generated_from_the_tables(name: str) -> None:
    """`python tools/<name>_page.py > docs/<name>.md` has been run."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        page = importlib.import_module(f"{name}_page").page()
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / f"{name}.md").read_text() == page


def test_every_setting_is_documented() -> None:
    """Each setting has a meaning in words."""
    for field in Settings.__dataclass_fields__.values():
        assert field.metadata["doc"], field.name


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_thread_of_ours_draws_from_the_applications_random_numbers(path: Path) -> None:
    """They may be seeded, for a run that can be repeated: ours come from the system."""
    assert drawn_from_the_shared_generator(path.read_text()) == []


def drawn_from_the_shared_generator(source: str) -> list[str]:
    """What a module takes from ``random`` other than a generator of its own."""
    return [
        node.attr for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and node.value.id == "random" and node.attr not in ("Random", "SystemRandom")
    ]


def test_the_rule_of_random_numbers_sees_one_that_is_shared() -> None:
    """Negative control."""
    assert drawn_from_the_shared_generator("import random\nrandom.uniform(0, 1)") == ["uniform"]
