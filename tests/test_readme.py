"""What the README shows is run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_memoir.testing import ScriptedCollector

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^\$ otel-memoir (.*?)(?: +#.*)?$", README, re.MULTILINE)
TIMEOUT_S = 60.0
EMITTED = (
    ["memory.updated"],
    ["memoir.record.created", "memoir.change.intended", "memoir.record.updated"],
    ["memoir.reflection.started", "memoir.reflection.completed"],
)


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def run(command: list[str], spool: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the given spool and endpoint, and nothing else of this environment's."""
    environ = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "MEMOIR_"))
    }
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env={**environ, "MEMOIR_SPOOL_DIR": str(spool), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
    )


def test_there_are_examples_and_commands() -> None:
    """Else the tests below would pass for nothing."""
    assert len(PROGRAMS) >= 2
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.splitlines()[-2][:40])
def test_an_example_delivers_what_it_emits(
    program: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """It ends well, says nothing, and its records arrive with all stamps."""
    done = run([sys.executable, "-c", program], tmp_path, collector.endpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    records = collector.delivered
    numbers = [(record.epoch, record.sequence) for record in records]
    assert numbers == [(1, number + 1) for number in range(len(records))]
    assert [record.event_name for record in records] in EMITTED


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(
    command: str, collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Beside a spool that has a record; nothing is wrong but, on some hosts, the clock."""
    run([sys.executable, "-c", PROGRAMS[0]], tmp_path, collector.endpoint)
    words = shlex.split(command.replace("DIR", str(tmp_path)))
    done = run([sys.executable, "-m", "otel_memoir.cli", *words], tmp_path, collector.endpoint)
    assert done.returncode == 0 or command in ("clock", "doctor"), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
