"""What the pages of ``docs`` show is run as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from otel_memoir.spool.schema import FORMAT
from otel_memoir.testing import ScriptedCollector
from test_readme import ROOT, run

DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.glob("*.md")) if "```python" in path.read_text()]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "program", [code for page in PAGES for code in blocks(page, "python")],
    ids=lambda code: next(line for line in code.splitlines() if line.strip())[:40],
)
def test_an_example_ends_well_and_what_it_tells_arrives(program: str, tmp_path: Path) -> None:
    """And it says nothing on its own."""
    with ScriptedCollector() as collector:
        done = run([sys.executable, "-c", program], tmp_path, collector.endpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert collector.delivered or "MemoryLog" not in program


def unknown_tests(page: str) -> tuple[int, list[str]]:
    """How many tests the tables of a page name, and which of them there are not.

    A letter of the legend (``P is tests/...``) says in which file the names after it are; a
    name that ends with an ellipsis is the beginning of one.
    """
    files = {
        letter: (ROOT / path).read_text()
        for letter, path in re.findall(r"`([A-Z])` is `(tests/\w+\.py)`", page)
    }
    count, unknown = 0, []
    for row in re.findall(r"^\|.*$", page, re.MULTILINE):
        file = None
        for letter, name in re.findall(r"(?<![\w`])([A-Z])(?![\w`])|`(\w+…?)`", row):
            file = files.get(letter, file)
            if name and file is not None:
                count += 1
                start = f"def test_{name}".rstrip("…")
                known = start in file if name.endswith("…") else f"{start}(" in file
                unknown += [] if known else [name]
        paths = re.findall(r"`(tests/\w+\.py)`", row)
        unknown += [path for path in paths if not (ROOT / path).exists()]
    return count, unknown


def test_every_test_that_the_proof_of_locks_names_exists() -> None:
    """A renamed test takes its row with it."""
    count, unknown = unknown_tests((DOCS / "proof-locks.md").read_text())
    assert unknown == []
    assert count > 60


@pytest.mark.parametrize("row", [
    "| P `no_test_of_this_name` |", "| P `a_walk_ends_in_a_circle` |", "| P `no_such_…` |",
    "| `tests/test_no_such_file.py` |",
])
def test_a_test_that_there_is_not_would_be_seen(row: str) -> None:
    """Negative control."""
    _, unknown = unknown_tests(f"`P` is `tests/test_locks_pitfalls.py`\n{row}\n")
    assert len(unknown) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    """Beside a spool that has what the page's first example told."""
    commands = re.findall(r"^\$ otel-memoir (.*?)(?: +#.*)?$", page.read_text(), re.MULTILINE)
    with ScriptedCollector() as collector:
        run([sys.executable, "-c", blocks(page, "python")[0]], tmp_path, collector.endpoint)
        for command in commands:
            words = shlex.split(command)
            done = run(
                [sys.executable, "-m", "otel_memoir.cli", *words], tmp_path, collector.endpoint
            )
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", *ROOT.glob("*/README.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Inside the repository."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_page_on_upgrading_knows_the_format() -> None:
    """Each format has a row."""
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "upgrading.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, FORMAT + 1))


@pytest.mark.collector
def test_the_collector_of_the_quickstart_is_one(otelcol: Path, tmp_path: Path) -> None:
    """Its configuration is accepted as it stands there."""
    [config] = blocks(DOCS / "quickstart.md", "yaml")
    (tmp_path / "config.yaml").write_text(config)
    done = subprocess.run(
        [str(otelcol), "validate", "--config", str(tmp_path / "config.yaml")],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
