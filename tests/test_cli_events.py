"""``otel-memoir events`` with filters and ``--follow``, and ``history``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from host_programs.hosting import interruptible
from otel_memoir.cli import main
from otel_memoir.cli.filters import MOMENT, Reading
from otel_memoir.events import MemoryEvent
from otel_memoir.spool import State
from retrieval_world import NOON_NS, Writer, writer

FIELDS = {
    "state", "uid", "stream", "epoch", "sequence", "time", "unix_ns", "error_bound_ns", "event",
    "body", "record",
}


def run(*arguments: object) -> Result:
    """Run ``otel-memoir`` in this process."""
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments], env={"MEMOIR_SPOOL_DIR": ""}
    )


def uids(*arguments: object) -> list[str]:
    """The uids that ``events --json`` shows."""
    result = run("events", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [event["uid"] for event in json.loads(result.stdout)["events"]]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[tuple[Path, Writer]]:
    """Four events, of which the first two are delivered."""
    with writer(tmp_path) as it:
        it.append(MemoryEvent("memoir.record.created", record_id="r1", store_id="s1"), NOON_NS,
                  uid="u1")
        it.append(MemoryEvent("memoir.record.updated", record_id="r1", agent_name="planner"),
                  NOON_NS + 10**9, uid="u2")
        it.settle(State.DELIVERED)
        it.append(MemoryEvent("memoir.record.created", record_id="r2"), NOON_NS + 2 * 10**9,
                  uid="u3")
        it.append(MemoryEvent("memoir.recall.completed", attributes={
            "memoir.record.ids": ("r1", "r2"), "gen_ai.memory.record.count": 2,
        }), NOON_NS + 3 * 10**9, uid="u4")
        yield tmp_path, it


@pytest.mark.parametrize(("given", "expected"), [
    ((), "u1 u2 u3 u4"), (("--event", "memoir.record.created"), "u1 u3"),
    (("--record", "r1"), "u1 u2 u4"), (("--record", "r1", "--record", "r2"), "u1 u2 u3 u4"),
    (("--record", "r1", "--state", "delivered"), "u1 u2"), (("--store", "s1"), "u1"),
    (("--agent", "planner"), "u2"), (("--uid", "u3", "--uid", "no"), "u3"),
    (("--since", "2025-11-24T16:00:01"), "u2 u3 u4"),
    (("--until", "2025-11-24T17:00:01+01:00"), "u1"), (("--since", "1h"), ""),
    (("--first-sequence", 2, "--last-sequence", 3), "u2 u3"),
    (("--limit", 2), "u1 u2"), (("--limit", 2, "--newest-first"), "u4 u3"),
])
@pytest.mark.parametrize("order", [(), ("--order",)])
def test_options_choose_events_be_they_looked_up_or_brought_into_order(
    spool: tuple[Path, Writer], given: tuple[object, ...], expected: str, order: tuple[str, ...]
) -> None:
    """With --order all is read, and what is chosen of it is shown."""
    assert uids(spool[0], *given, *order) == expected.split()


def test_choosing_some_makes_no_gaps_of_the_others(spool: tuple[Path, Writer]) -> None:
    """The order is made of all of them."""
    result = run("events", spool[0], "--order", "--uid", "u4", "--json")
    assert json.loads(result.stdout)["gaps"] == [] and result.exit_code == 0


def test_the_fields_for_programs_stay_as_they_are(spool: tuple[Path, Writer]) -> None:
    """In the document, and in the lines of --follow."""
    document = json.loads(run("events", spool[0], "--json").stdout)
    assert {"events", "unstamped", "damaged"} == document.keys()
    lines = run("events", spool[0], "--follow", "--timeout", 0, "--json").stdout.splitlines()
    for event in (*document["events"], *map(json.loads, lines)):
        assert event.keys() == FIELDS
    assert [json.loads(line)["uid"] for line in lines] == ["u1", "u2", "u3", "u4"]


def test_the_history_of_a_memory_record_is_told_to_people_and_programs(
    spool: tuple[Path, Writer]
) -> None:
    """Events that name it among others, too."""
    result = run("history", "r2", "--spool-dir", spool[0])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert "memory record r2 was created" in lines[1] and "recall" in lines[2]
    found = json.loads(run("history", "r2", "--spool-dir", spool[0], "--json").stdout)
    assert [event["uid"] for event in found["events"]] == ["u3", "u4"]
    none = run("history", "r9", "--spool-dir", spool[0])
    assert none.stdout.strip() == "there are no records" and none.exit_code == 0


@pytest.mark.parametrize("given", [
    ("--since", "yesterday"), ("--state", "lost"), ("--limit", "0"), ("--follow", "--order"),
    ("--follow", "--newest-first"),
])
def test_what_cannot_be_asked_for_is_wrong_usage(tmp_path: Path, given: tuple[str, ...]) -> None:
    """Exit code 2, and what to write instead."""
    assert run("events", tmp_path, *given).exit_code == 2


def test_a_file_that_cannot_be_read_is_told_and_fails_the_command(tmp_path: Path) -> None:
    """What the others hold is shown."""
    with writer(tmp_path, 2) as it:
        it.append(MemoryEvent("memoir.record.created", record_id="r1"), NOON_NS, uid="u1")
        (tmp_path / "memoir-0001.db").write_bytes(b"no database, but longer than one" * 9)
        result = run("events", tmp_path, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert len(found["events"]) == 1 and "memoir-0001.db" in found["damaged"][0]


def test_new_events_are_followed_until_interrupted(tmp_path: Path) -> None:
    """By a process of its own, which sees them within a second, and ends well on Ctrl-C."""
    with writer(tmp_path) as it:
        it.append(MemoryEvent("memoir.record.created", record_id="r1"), NOON_NS, uid="old")
        command = [sys.executable, "-m", "otel_memoir.cli", "events", str(tmp_path), "--follow",
                   "--json", "--event", "memoir.record.created"]
        # Without a buffer a line is there as soon as it was written.
        process = subprocess.Popen(interruptible(command), stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["uid"] == "old"
            it.append(MemoryEvent("memoir.record.updated", record_id="r1"), NOON_NS + 1)
            it.append(MemoryEvent("memoir.record.created", record_id="r2"), NOON_NS + 2, uid="new")
            assert json.loads(process.stdout.readline())["uid"] == "new"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(20)
            process.stdout.close()


def test_a_person_follows_in_lines_under_a_head(spool: tuple[Path, Writer]) -> None:
    """The last few, the oldest of them first; it ends when the time is over."""
    result = run("events", spool[0], "--follow", "--timeout", 0.3, "--limit", 2)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 3
    assert lines[0].split()[:3] == ["state", "stream", "epoch"]
    assert "r2 was created" in lines[1] and "recall" in lines[2]


@pytest.mark.parametrize(("text", "unix_ns"), [
    ("2025-11-24T16:00:00Z", NOON_NS), ("2025-11-24T16:00", NOON_NS),
    ("2025-11-24T17:00:00.500+01:00", NOON_NS + 5 * 10**8), (str(NOON_NS), NOON_NS),
    ("2025-11-24", NOON_NS - 16 * 3600 * 10**9),
])
def test_a_time_is_written_in_one_of_four_ways(text: str, unix_ns: int) -> None:
    """UTC unless it says a zone; the fourth is an age."""
    assert MOMENT.convert(text, None, None) == unix_ns
    before = time.time_ns()
    assert abs(before - MOMENT.convert("90s", None, None) - 90 * 10**9) < 10**9
    with pytest.raises(click.BadParameter, match="15m"):
        MOMENT.convert("tomorrow", None, None)


def test_progress_is_told_on_stderr_once_reading_takes_a_second(
    capsys: pytest.CaptureFixture[str]
) -> None:
    """And at most once a second, and at the end; nothing is told of what is quick."""
    now = [0.0]
    reading = Reading(lambda: now[0])
    told: list[Any] = []
    for at, done in ((0.0, 1), (0.9, 2), (1.1, 3), (1.5, 4), (2.2, 5), (2.3, 6)):
        now[0] = at
        reading(done, 6)
        told.append(capsys.readouterr().err)
    assert [bool(text) for text in told] == [False, False, True, False, True, True]
    assert told[2] == "reading what is new: 3 of 6 records\n"
    quick = Reading(lambda: 0.0)
    quick(6, 6)
    assert capsys.readouterr().err == ""
