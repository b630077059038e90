"""Fixtures for tests against a real OpenTelemetry Collector."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from collector import Collector
from otel_memoir.stamping import process_clock

# What differs between interpreters shows in few examples; the rest is for the main one.
hypothesis.settings.register_profile("matrix", max_examples=15, deadline=None)

WITHOUT = "MEMOIR_TEST_WITHOUT_COLLECTOR"
TOOL = Path(__file__).resolve().parent.parent / "tools" / "collector.py"
# The tool ends a build after 15 minutes, with the reason: it must be the first to give up.
FIND_TIMEOUT_S = 17 * 60


@pytest.fixture(scope="session", autouse=True)
def own_state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the processes of the tests share a clock: not with those of the user.

    And no thread that shows locks lives on in this one: a fork beside it warns from 3.12 on.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("MEMOIR_LOCK_SOCKET", "off")
        # Who counts records wants none about health among them; its own tests say otherwise.
        patch.setenv("MEMOIR_HEALTH_INTERVAL", "1e6")
        yield


@pytest.fixture(autouse=True)
def own_hybrid_clock() -> None:
    """What a test's clock pushed into the future must not be the past of the next one."""
    process_clock.__init__()  # type: ignore[misc]  # anew, where everybody has it


@pytest.fixture(scope="session")
def otelcol() -> Path:
    """Path of a real Collector, built on first need; the test fails when there is none."""
    if os.environ.get(WITHOUT) == "1":
        pytest.skip(f"{WITHOUT}=1: this test needs a real Collector; unset it to run the test")
    found = subprocess.run(
        [sys.executable, str(TOOL)], capture_output=True, text=True, timeout=FIND_TIMEOUT_S,
        check=False,
    )
    if found.returncode != 0:
        pytest.fail(
            f"{found.stderr[-4000:]}\nOr leave out what needs a Collector: {WITHOUT}=1",
            pytrace=False,
        )
    return Path(found.stdout.splitlines()[-1])


@pytest.fixture
def collector(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    """A running sink: takes OTLP over HTTP and gRPC; `received()` tells what has arrived."""
    directory = tmp_path / "collector"
    directory.mkdir()
    with Collector(otelcol, directory) as running:
        yield running
