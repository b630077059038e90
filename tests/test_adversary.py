"""What an adversary found: each test failed once, or pins what held by a thread."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord

from otel_memoir import DurableLogRecordProcessor
from otel_memoir.delivery import sources
from otel_memoir.delivery.planner import Planner
from otel_memoir.delivery.sources import Adoption, Source
from otel_memoir.errors import SettingsError, SpoolError
from otel_memoir.sdk.spool_place import spool_directory
from otel_memoir.settings import Settings
from otel_memoir.spool import Batch, Draft, Spool, Stream, ledger
from otel_memoir.spool.directory import Slot, SlotLock, is_held, prepare_directory, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.inspect import status_of_directory
from otel_memoir.testing import FakeClock, ScriptedCollector
from socket_programs.wiring import Agent, agent, numbers
from spool_helpers import (
    io_error,
    make_faulty,
    names_in,
    open_spool,
    problems_of,
    store,
    totals_of,
)
from trouble import until

TIMEOUT_S = 15.0


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


@contextlib.contextmanager
def closing_spool(directory: Path, **given: Any) -> Iterator[Spool]:
    spool = open_spool(directory, **given)
    try:
        yield spool
    finally:
        spool.close(5.0)


def stamp_time(clock: FakeClock) -> Callable[[Stream], Callable[[Draft, int], tuple[bytes, int]]]:
    return lambda stream: lambda draft, sequence: (b"", clock.wall_ns())


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_shared_temporary_directory_is_refused_and_stays_open_to_others(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(SpoolError, match="shared"):
        prepare_directory(shared)
    assert mode_of(shared) == 0o1777


def test_a_directory_that_holds_other_things_is_not_closed_to_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    (home / "other").touch()
    prepare_directory(home)
    assert mode_of(home) == 0o755


def test_a_directory_with_nothing_but_our_files_is_closed_to_others(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    (own / "memoir-0001.db").touch()
    prepare_directory(own)
    assert mode_of(own) == 0o700


# -- settling in --------------------------------------------------------------


def test_a_lock_file_that_cannot_be_opened_costs_one_slot_and_not_all(tmp_path: Path) -> None:
    (tmp_path / "memoir-0001.lock").mkdir()
    with closing_spool(tmp_path) as spool:
        store(spool, "first")
        assert spool.is_on_disk
        assert names_in(tmp_path) == {"first"}


def test_a_record_is_stored_though_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with closing_spool(tmp_path) as spool:
        store(spool, "first")
        assert names_in(tmp_path) == {"first"}


def test_a_user_without_a_home_has_a_spool_in_memory_and_each_record_is_counted(
    monkeypatch: pytest.MonkeyPatch, collector: ScriptedCollector
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    made = Agent(DurableLogRecordProcessor(endpoint=collector.endpoint, environ={}))
    made.emit(3)
    assert made.totals.accepted == 3
    made.provider.shutdown()
    assert numbers(collector.delivered) == [0, 1, 2]


def test_a_relative_spool_directory_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = spool_directory(Settings(spool_dir="spool"))
    monkeypatch.chdir("/")
    assert directory.absolute() == tmp_path / "spool"


def test_a_time_that_cannot_be_asked_does_not_cost_the_record(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    class Time:
        def __bool__(self) -> bool:
            raise ValueError("no truth in it")

    with agent(tmp_path, collector.endpoint) as it:
        record = LogRecord(body="hello", attributes={"number": 0})
        record.timestamp = Time()  # type: ignore[assignment]  # that is the point
        it.logger.emit(record)
        assert it.totals.accepted == 1


# -- files of dead processes --------------------------------------------------


def left_behind(directory: Path) -> None:
    """A file with three records of a process that died."""
    with closing_spool(directory) as spool:
        for number in range(3):
            store(spool, f"{number}")


def test_a_file_that_could_not_be_opened_just_now_is_adopted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full, or the process had no descriptor left."""
    left_behind(tmp_path)
    adoption = Adoption(tmp_path, wall_ns=time.time_ns)
    with monkeypatch.context() as patched:
        patched.setattr(sources, "open_held", raising(sqlite3.OperationalError("unable to open")))
        assert adoption.look(most=9) == []
    (found,) = adoption.look(most=9)
    adoption.release(found)


def test_what_another_process_writes_right_after_a_file_was_released_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path)
    adoption = Adoption(tmp_path, wall_ns=time.time_ns)
    (found,) = adoption.look(most=9)
    release = SlotLock.release

    def release_to_another(lock: SlotLock) -> None:
        release(lock)
        monkeypatch.setattr(SlotLock, "release", release)
        left_behind(tmp_path)

    monkeypatch.setattr(SlotLock, "release", release_to_another)
    adoption.release(found)
    (again,) = adoption.look(most=9)
    adoption.release(again)


# -- clocks that jump ---------------------------------------------------------


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[tuple[Spool, Planner, FakeClock]]:
    """A spool whose records expire after an hour, and its planner."""
    clock = FakeClock()
    settings = Settings(expire_after_s=3600.0, disk_free_bytes_min=0)
    clocks = {"wall_ns": clock.wall_ns, "monotonic_s": clock.monotonic_s}
    spool = Spool(settings, directory=tmp_path, make_stamper=stamp_time(clock), **clocks)
    try:
        yield spool, Planner(spool, settings, **clocks), clock
    finally:
        spool.close(5.0)


def the_batch(planner: Planner, source: Source) -> Batch:
    batch = planner.next_batch(source, skip=None, hurry=True)
    assert batch is not None
    return batch


def test_a_clock_that_jumps_expires_nothing_however_long_the_process_has_run(
    planned: tuple[Spool, Planner, FakeClock]
) -> None:
    spool, planner, clock = planned
    clock.advance(7200.0)
    store(spool, "young")
    (source,) = planner.sources()
    batch = the_batch(planner, source)
    clock.jump(10 * 365 * 86400.0)
    assert not planner.is_expired(source, batch)
    clock.advance(3700.0)
    assert planner.is_expired(source, batch)


def test_a_batch_that_was_put_off_by_a_clock_ahead_of_time_is_tried_once_it_is_set_right(
    planned: tuple[Spool, Planner, FakeClock]
) -> None:
    spool, planner, clock = planned
    store(spool, "first")
    (source,) = planner.sources()
    batch = the_batch(planner, source)

    def put_off(seconds: float) -> None:
        until_ns = clock.wall_ns() + int(seconds * 1e9)

        def write(file: SpoolFile) -> None:
            file.connection.execute("DELETE FROM batch")
            ledger.open_batch(
                file.connection, dataclasses.replace(batch, next_attempt_unix_ns=until_ns)
            )
            file.ledgered_id = batch.last_id

        source.perform(write)

    put_off(50.0)
    assert planner.next_batch(source, skip=None, hurry=True) is None
    put_off(10 * 365 * 86400.0)
    assert the_batch(planner, source).number == batch.number


# -- settings -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"emit_timeout_s": float("inf")}, {"batch_delay_s": 1e12}, {"backoff_max_s": 1e300},
        {"request_timeout_s": float("inf")}, {"request_records_max": 2**63},
        {"retain_bytes_max": 2**63},
    ],
)
def test_a_number_that_the_system_cannot_take_is_refused_at_once(given: dict[str, Any]) -> None:
    """A wait of 1e12 s ended the writer thread; 2**63 records a request delivered nothing."""
    with pytest.raises(SettingsError, match="at most"):
        Settings(**given)
    said: list[str] = []
    (name,) = given
    loaded = Settings.load(environ={}, complain=said.append, **given)
    assert getattr(loaded, name) == getattr(Settings(), name)
    assert len(said) == 1


# -- files removed while in use -----------------------------------------------


@pytest.mark.parametrize("look", [False, True], ids=["", "somebody looks at it"])
@pytest.mark.parametrize("ending", [".lock", ".db-wal"])
def test_a_process_goes_on_in_another_file_when_somebody_removes_the_lock_or_the_log(
    tmp_path: Path, ending: str, look: bool
) -> None:
    """As tmpfiles.d does to old ones. A second writer would come, or a kill lose the log."""
    with closing_spool(tmp_path) as spool:
        store(spool, "before")
        (tmp_path / f"memoir-0001{ending}").unlink()
        if look:
            status_of_directory(tmp_path)  # SQLite makes a new log for whoever reads
        assert until(lambda: spool.file is not None and spool.file.name == "memoir-0002")
        store(spool, "after")
        assert names_in(tmp_path) == {"before", "after"}
    assert problems_of(tmp_path) == []
    assert totals_of(tmp_path).accepted == 2


def test_a_process_does_not_adopt_its_own_file_when_the_lock_is_gone(tmp_path: Path) -> None:
    with closing_spool(tmp_path) as spool:
        store(spool, "own")
        (tmp_path / "memoir-0001.lock").unlink()
        assert Adoption(tmp_path, wall_ns=time.time_ns).look(most=9, own="memoir-0001") == []


def test_an_emit_goes_on_in_another_file_when_a_second_writer_took_its_number(
    tmp_path: Path,
) -> None:
    with closing_spool(tmp_path) as spool:
        store(spool, "own")
        path = tmp_path / "memoir-0001.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as second:
            second.execute(
                "INSERT INTO record SELECT id + 1, stream, sequence + 1, batch, envelope, severity,"
                " accepted_unix_ns, size, packed, crc, payload FROM record"
            )
        ticket = store(spool, "next")
        assert ticket.stored
        assert ticket.sequence == 2
        assert spool.file is not None
        assert spool.file.name == "memoir-0002"


# -- failover -----------------------------------------------------------------


def test_what_a_failed_file_may_have_lost_is_delivered_though_older_slots_are_free(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """Its batch has a number that the ledger of a slot with a past has too."""
    with agent(tmp_path, collector.endpoint) as one, agent(tmp_path, collector.endpoint) as two:
        for past in (one, two, two, two, two, two):
            past.emit(1)
            assert past.processor.wait_delivered(TIMEOUT_S)
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(1)
        assert it.processor.wait_delivered(TIMEOUT_S)
        make_faulty(it.processor.pipeline._made["parts"].spool, "COMMIT", io_error())
        it.emit(1)
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert problems_of(tmp_path) == []


def test_a_file_that_cannot_be_served_does_not_hold_up_the_others(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    with agent(tmp_path, collector.endpoint) as past:
        past.emit(1)
        assert past.processor.wait_delivered(TIMEOUT_S)
        collector.down()
        past.emit(1)
    with contextlib.closing(sqlite3.connect(tmp_path / "memoir-0001.db")) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON batch BEGIN SELECT raise(ABORT, 'no'); END"
        )
        connection.commit()
    collector.up()
    lock = try_lock(Slot(tmp_path, 1))
    assert lock is not None
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(1)
        lock.release()
        assert until(lambda: is_held(Slot(tmp_path, 1)))
        for _ in range(20):
            it.emit(1)
            assert collector.wait_for(len(it.emitted) + 1, TIMEOUT_S)
