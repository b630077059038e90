"""Each cause of ``docs/operations.md``, provoked for real; and none where all is well."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clock_helpers import until
from otel_memoir.locks import LockManager
from otel_memoir.observe import Cause, Health, watch_locks
from otel_memoir.observe.health_causes import RULES
from otel_memoir.sdk import DurableLogExporter
from otel_memoir.sdk.pipeline import Pipeline
from otel_memoir.spool.directory import slots, try_lock_file
from otel_memoir.testing import (
    Answer,
    NtpAnswer,
    RecordedRequest,
    ScriptedCollector,
    ScriptedNtpServer,
)
from test_cli import NOWHERE, record
from test_health import healthy_or_not

Provoked = contextlib.AbstractContextManager[Pipeline]
PROVOKE: dict[str, Callable[[Path], Provoked]] = {}


def provokes(cause: str) -> Callable[[Callable[[Path], Iterator[Pipeline]]], Any]:
    """Take a way to provoke a cause into the list."""

    def take(way: Callable[[Path], Iterator[Pipeline]]) -> Any:
        PROVOKE[cause] = contextlib.contextmanager(way)
        return way

    return take


@contextlib.contextmanager
def pipeline(directory: Path, endpoint: str = NOWHERE, **given: Any) -> Iterator[Pipeline]:
    """A pipeline with a record in it."""
    made = healthy_or_not(directory, endpoint, **given)
    holder = DurableLogExporter(pipeline=made)
    try:
        made.store(record(1))
        yield made
    finally:
        holder.shutdown(0)


@provokes("delivery.hold")
def wrong_path(directory: Path) -> Iterator[Pipeline]:
    """A server that knows no such path."""
    server = ScriptedCollector(lambda _: Answer(status=404))
    with server, pipeline(directory, server.endpoint) as made:
        yield made


@provokes("disk.memory")
def no_directory(directory: Path) -> Iterator[Pipeline]:
    """A file stands where the directory should be."""
    (directory / "file").write_text("")
    with pipeline(directory / "file" / "spool") as made:
        yield made


@provokes("disk.low")
def no_free_disk(directory: Path) -> Iterator[Pipeline]:
    """A reserve that is more than any disk has."""
    with pipeline(directory, disk_free_bytes_min=2**50) as made:
        yield made


@provokes("room.fill")
def small_spool(directory: Path) -> Iterator[Pipeline]:
    """Half of all that may wait waits."""
    with pipeline(directory, spool_bytes_max=2**16) as made:
        for number in range(4):
            made.store(record(number, "x" * 10_000))
        yield made


@provokes("refused.new")
def too_large(directory: Path) -> Iterator[Pipeline]:
    """A record that is larger than is allowed."""
    with pipeline(directory, record_bytes_max=1000) as made:
        made.store(record(2, "x" * 2000))
        yield made


@provokes("fsync.late")
def locked_file(directory: Path) -> Iterator[Pipeline]:
    """A stranger holds the file's lock for longer than an emit waits."""
    with pipeline(directory, emit_timeout_s=0.3) as made:
        path = slots(directory)[0].database
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            made.store(record(2))
            stranger.execute("ROLLBACK")
        yield made


@provokes("fsync.slow")
def real_fsync(directory: Path) -> Iterator[Pipeline]:
    """A real fsync, and a threshold below what any disk can do."""
    with pipeline(directory, health_fsync_s=0.0001) as made:
        yield made


@provokes("backlog.age")
def nobody_there(directory: Path) -> Iterator[Pipeline]:
    """No server, and little patience."""
    with pipeline(directory, health_backlog_age_s=0.05) as made:
        yield made


@provokes("delivery.retrying")
def nobody_listens(directory: Path) -> Iterator[Pipeline]:
    """No server, and attempts that are looked at."""
    with pipeline(directory, health_retry_s=0.05) as made:
        yield made


@provokes("disk.file_left")
def removed_lock(directory: Path) -> Iterator[Pipeline]:
    """Somebody removes the lock of a living process, which then goes on in another file."""
    with pipeline(directory) as made:
        slots(directory)[0].lock_file.unlink()
        yield made


@provokes("disk.file_broken")
def broken_file(directory: Path) -> Iterator[Pipeline]:
    """A file that was moved aside, and that somebody else is busy with."""
    broken = directory / "broken-0002-1795813967908113282.db"
    broken.write_bytes(b"\xff" * 8192)
    held = try_lock_file(broken.with_suffix(".lock"))
    assert held is not None
    try:
        with pipeline(directory) as made:
            yield made
    finally:
        os.close(held)


@provokes("disk.unreadable")
def removed_file(directory: Path) -> Iterator[Pipeline]:
    """Somebody removes the file of a living process."""
    with pipeline(directory) as made:
        slots(directory)[0].database.unlink()
        yield made


@provokes("quarantine.grew")
def poison(directory: Path) -> Iterator[Pipeline]:
    """A record that the server refuses, among others that it takes."""

    def respond(request: RecordedRequest) -> Answer:
        return Answer(status=400 if b"poison" in request.body else 200)

    with ScriptedCollector(respond) as server, pipeline(directory, server.endpoint) as made:
        made.store(record(2, "poison"))
        made.store(record(3))
        yield made


@provokes("gaps.new")
def rejected(directory: Path) -> Iterator[Pipeline]:
    """A server that takes a request without one of its records."""
    with ScriptedCollector() as server:
        server.script([Answer(rejected=1, message="no")])
        with pipeline(directory, server.endpoint) as made:
            yield made


@provokes("clock.wrong")
def silent_sources(directory: Path) -> Iterator[Pipeline]:
    """A time source that does not answer."""
    with ScriptedNtpServer(lambda _: NtpAnswer.silence()) as server, pipeline(
        directory, clock_mode="observe", clock_sources=f"ntp://127.0.0.1:{server.port}",
        clock_dir=str(directory / "clock"), health_clock_s=0.05,
    ) as made:
        yield made


@provokes("clock.wide")
def wide_bound(directory: Path) -> Iterator[Pipeline]:
    """A time source, and a bound that no source can meet."""
    with ScriptedNtpServer() as server, pipeline(
        directory, clock_mode="observe", clock_sources=f"ntp://127.0.0.1:{server.port}",
        clock_dir=str(directory / "clock"), clock_bound_max_s=0.0, health_clock_s=0.05,
    ) as made:
        yield made


@provokes("clock.falseticker")
def a_liar(directory: Path) -> Iterator[Pipeline]:
    """Three time sources that agree, and one that is 100 s ahead."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(ScriptedNtpServer()).port for _ in range(3)]
        liar = ScriptedNtpServer(lambda _: NtpAnswer(offset_s=100.0))
        ports.append(stack.enter_context(liar).port)
        yield stack.enter_context(pipeline(
            directory, clock_mode="observe", clock_dir=str(directory / "clock"),
            clock_sources=",".join(f"ntp://127.0.0.1:{port}" for port in ports),
        ))


@provokes("locks.wait")
def a_long_wait(directory: Path) -> Iterator[Pipeline]:
    """A thread that waits for a lock which this one does not let go of."""
    locks = LockManager()
    watch_locks(locks)

    def wait() -> None:
        with contextlib.suppress(TimeoutError), locks.hold("profile/alice", timeout=20):
            pass

    thread = threading.Thread(target=wait)
    with pipeline(directory, health_lock_wait_s=0.05) as made:
        with locks.hold("profile/alice"):
            thread.start()
            yield made
        thread.join(20)


def found(made: Pipeline, cause: str) -> Cause | None:
    """The cause, if it is there now."""
    return next((one for one in made.health().causes if one.id == cause), None)


@pytest.mark.parametrize("cause", [rule.id for rule in RULES])
def test_every_cause_is_found_when_it_is_there(cause: str, tmp_path: Path) -> None:
    """By a real fault; and it says what to do."""
    with PROVOKE[cause](tmp_path) as made:
        assert until(lambda: found(made, cause) is not None), made.health()
        health = made.health()
        assert health.state != "ok"
        assert all(one.hint and one.message for one in health.causes)


def test_every_cause_has_a_way_to_provoke_it() -> None:
    """A new one needs one."""
    assert set(PROVOKE) == {rule.id for rule in RULES}


def test_a_loss_is_new_for_the_window_only(tmp_path: Path) -> None:
    """And then health is ok again, though the loss stays counted."""
    with pipeline(tmp_path, record_bytes_max=1000, health_window_s=1.0) as made:
        made.store(record(2, "x" * 2000))
        assert until(lambda: found(made, "refused.new") is not None)
        assert until(lambda: found(made, "refused.new") is None)
        assert made.status().totals.refused == {"too_large": 1}


def test_what_a_dead_process_lost_is_new_to_the_next_one(tmp_path: Path) -> None:
    """It is in the file, with its time."""
    with pipeline(tmp_path, record_bytes_max=1000) as made:
        made.store(record(2, "x" * 2000))
    with pipeline(tmp_path) as next_one:
        assert until(lambda: found(next_one, "refused.new") is not None)


def test_no_cause_is_found_where_all_is_well(tmp_path: Path) -> None:
    """With every part at work: a clock that is right, a lock that is free, a server that takes."""
    locks = LockManager()
    watch_locks(locks)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ScriptedCollector())
        ports = [stack.enter_context(ScriptedNtpServer()).port for _ in range(3)]
        made = stack.enter_context(pipeline(
            tmp_path, server.endpoint, clock_mode="observe", clock_dir=str(tmp_path / "clock"),
            clock_sources=",".join(f"ntp://127.0.0.1:{port}" for port in ports),
        ))
        with locks.hold("profile/alice"):
            for number in range(50):
                made.store(record(number))
        assert made.wait_delivered(10)
        assert until(lambda: not made.health().signs.clock_status)
        assert made.health() == Health()
        assert made.health().signs.delivered_per_s >= 0
