"""Real processes whose clocks are set, killed, and rebooted under them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chrony import FAKETIME, needs_faketime
from clock_host import MS, S

PROGRAM = ("-m", "clock_programs.reading")
TESTS = Path(__file__).resolve().parent
PATIENCE_S = 60.0
AHEAD_S = 5000


def _can_unshare() -> bool:
    try:
        done = subprocess.run(
            ["unshare", "-T", "--monotonic", "5", "-f", "true"], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


needs_time_namespaces = pytest.mark.skipif(
    not _can_unshare(),
    reason="no time namespaces: run as root on Linux 5.6 or newer, with util-linux 2.36 or newer",
)


class Reading:
    """A process with a clock, that reads it when asked."""

    def __init__(
        self, *arguments: str, before: Sequence[str] = (), environ: dict[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, *PROGRAM, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=TESTS, env={**os.environ, **(environ or {})},
        )

    def read(self) -> dict[str, Any]:
        """One reading."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        assert isinstance(found, dict)
        return found

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read until a reading is so."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            found = self.read()
            if is_so(found):
                return found
        raise AssertionError(found)

    def end(self) -> None:
        """Let it close its clock."""
        if self.process.poll() is None:
            self.process.communicate(timeout=PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def start() -> Iterator[Callable[..., Reading]]:
    """Starts processes, and ends those that are left."""
    started: list[Reading] = []

    def begin(*arguments: str, **given: Any) -> Reading:
        started.append(Reading(*arguments, **given))
        return started[-1]

    yield begin
    for reading in started:
        if reading.process.poll() is None:
            reading.kill()


def faked(directory: Path) -> tuple[Callable[[str], None], dict[str, str]]:
    """Sets the wall clock of a process, and what the process needs for that."""
    file = directory / "faketime"

    def set_clock(offset: str) -> None:
        new = directory / "faketime.new"
        new.write_text(offset + "\n")
        new.rename(file)

    set_clock("+0")
    return set_clock, {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@needs_faketime
@pytest.mark.parametrize("step", ["-3", "+0.9", "+3600", "-0.9"])
def test_the_wall_clock_of_a_process_is_set_and_its_next_observed_reading_knows(
    step: str, tmp_path: Path, start: Any
) -> None:
    """It reads the clock as it is; the bound holds the step."""
    set_clock, environ = faked(tmp_path)
    reading = start("observe", "", environ=environ)
    first = reading.read()
    assert first["synced"]
    assert first["error_ns"] <= first["bound_ns"] < 100 * MS
    set_clock(step)
    found = reading.read()
    step_ns = round(abs(float(step)) * S)
    assert found["error_ns"] == pytest.approx(step_ns, abs=150 * MS)
    assert found["error_ns"] <= found["bound_ns"]
    kind = "wall_back" if step.startswith("-") else "wall_forward"
    assert reading.until(lambda f: f["snapshot"]["steps"][kind] == 1)["status"] == ""


@needs_faketime
def test_a_corrected_clock_does_not_follow_a_step_of_the_wall_clock(
    tmp_path: Path, start: Any
) -> None:
    """Neither back nor forth, and soon its bound is as before."""
    set_clock, environ = faked(tmp_path)
    reading = start("correct", "", environ=environ)
    before = reading.read()
    for step in ("-3", "+7200"):
        set_clock(step)
        found = reading.read()
        assert found["error_ns"] <= found["bound_ns"]
        assert found["error_ns"] < 100 * MS
        assert found["unix_ns"] > before["unix_ns"]
        before = reading.until(lambda f: f["bound_ns"] < 100 * MS)
    assert before["epoch"] == 0


@needs_time_namespaces
def test_after_a_reboot_an_earlier_lifes_readings_of_the_ruler_mean_nothing(
    tmp_path: Path, start: Any
) -> None:
    """A time namespace is a boot as far as the ruler goes."""
    first = start("correct", str(tmp_path))
    assert first.read()["snapshot"]["role"] == "leader"
    first.end()
    rebooted = start("correct", str(tmp_path), "silent", before=later(AHEAD_S))
    found = rebooted.read()
    assert (found["bound_ns"], found["status"]) == (None, "uncalibrated")
    rebooted.end()
    again = start("correct", str(tmp_path), before=later(AHEAD_S)).read()
    assert again["error_ns"] <= again["bound_ns"] < 100 * MS


@needs_time_namespaces
def test_readings_of_another_boots_ruler_would_be_served_as_time(
    tmp_path: Path, start: Any
) -> None:
    """Negative control: a process that takes any ruler for its own.

    Only the bound saves it: the wall clock is where no line of this boot would have it.
    """
    first = start("correct", str(tmp_path), "any-ruler")
    first.read()
    first.end()
    rebooted = start("correct", str(tmp_path), "silent", "any-ruler", before=later(AHEAD_S))
    found = rebooted.read()
    assert found["error_ns"] > (AHEAD_S - 60) * S


@needs_time_namespaces
def test_processes_of_other_time_namespaces_do_not_follow_a_leaders_line(
    tmp_path: Path, start: Any
) -> None:
    """They cannot lead either, and say that they are not calibrated."""
    leader = start("observe", str(tmp_path))
    assert leader.read()["snapshot"]["role"] == "leader"
    found = start("observe", str(tmp_path), "silent", before=later(AHEAD_S)).read()
    assert (found["snapshot"]["role"], found["status"]) == ("follower", "uncalibrated")
    assert found["bound_ns"] is None


def later(seconds: int) -> tuple[str, ...]:
    """What starts a process whose ruler is so far ahead."""
    shift = str(seconds)
    return ("unshare", "-T", "--monotonic", shift, "--boottime", shift, "-f", "--kill-child")


@pytest.mark.slow
def test_when_the_leader_is_killed_a_follower_leads_and_time_goes_on(
    tmp_path: Path, start: Any
) -> None:
    """Five times in a row: never back in between, and true within the bound."""
    others = [start("correct", str(tmp_path)) for _ in range(2)]
    last_ns = 0
    for _ in range(5):
        found = [other.until(lambda f: f["synced"] and not f["status"]) for other in others]
        roles = [f["snapshot"]["role"] for f in found]
        assert sorted(roles) == ["follower", "leader"]
        assert all(f["error_ns"] <= f["bound_ns"] for f in found)
        leader = others.pop(roles.index("leader"))
        leader.kill()
        taken = others[0].until(lambda f: f["snapshot"]["role"] == "leader")
        assert taken["unix_ns"] > last_ns
        last_ns = taken["unix_ns"]
        others.append(start("correct", str(tmp_path)))


def test_all_processes_of_a_host_serve_the_same_time(tmp_path: Path, start: Any) -> None:
    """Read one after the other, times are in the order of the readings."""
    processes = [start("correct", str(tmp_path)) for _ in range(3)]
    for process in processes:
        process.until(lambda f: f["synced"])
    times = [process.read()["unix_ns"] for _ in range(30) for process in processes]
    assert times == sorted(times)
