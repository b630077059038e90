"""Corners of spool and courier where two things happen at once, each with the run that shows it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider

from otel_memoir import DurableLogRecordProcessor
from otel_memoir.delivery.planner import Planner
from otel_memoir.delivery.sources import Adoption, OwnSource
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SettingsError, SpoolError
from otel_memoir.observe import observe
from otel_memoir.settings import Settings
from otel_memoir.spool import Spool, State, ledger
from otel_memoir.spool.connection import open_writer
from otel_memoir.spool.directory import broken_files
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.group_commit import GroupCommit
from spool_helpers import (
    Destination,
    courier_of,
    draft,
    is_refused,
    make_faulty,
    open_spool,
    problems_of,
    put,
    select,
    stop,
    store,
    totals_of,
)

QUICK = {"linger_s": 0.0, "adoption_interval_s": 0.05, "backoff_initial_s": 0.01,
         "backoff_max_s": 0.05}
TIMEOUT_S = 20.0


def in_a_thread(work: Callable[[], Any]) -> None:
    """Do something beside this thread, and wait for it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def deliver_all(directory: Path, **given: Any) -> Destination:
    """Deliver what lies in a directory, with the settings of another process."""
    spool = open_spool(directory, **{**QUICK, **given})
    taker = Destination()
    courier = courier_of(spool, taker)
    put(spool, "own")
    drained = courier.wait_drained(5.0)
    stop(courier, spool)
    assert drained, totals_of(directory)
    return taker


def test_a_batch_of_more_records_than_are_sent_at_once_today_is_delivered(tmp_path: Path) -> None:
    """The next process, or `drain`, may have a smaller `request_records_max`."""
    spool = open_spool(tmp_path, request_records_max=50)
    for number in range(50):
        put(spool, f"r{number}")
    spool.close(5.0)
    taker = deliver_all(tmp_path, request_records_max=10)
    assert [taker.copies(b"<r%d>" % number) for number in range(50)] == [1] * 50
    assert problems_of(tmp_path) == []


def test_a_batch_with_a_hole_in_it_is_salvaged_and_delivered(tmp_path: Path) -> None:
    """Its rows stand in two streams' parts then, and a batch has one stream."""
    spool = open_spool(tmp_path)
    for number in range(60):
        put(spool, f"r{number}", size=600)
    spool.close(5.0)
    path = tmp_path / "memoir-0001.db"
    page = path.read_bytes().index(b"<r30>") // 4096
    with open(path, "r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    taker = deliver_all(tmp_path)
    arrived = [number for number in range(60) if taker.copies(b"<r%d>" % number)]
    assert 50 < len(arrived) < 60
    assert {0, 59} <= {*arrived}
    assert problems_of(tmp_path) == []


def test_a_batch_that_fills_up_while_its_end_is_asked_for_is_not_closed(tmp_path: Path) -> None:
    """The next batch began, but rows of the one before it are still queued."""
    spool = open_spool(tmp_path, durability="batch", batch_delay_s=60.0, request_records_max=2)
    store(spool, "r0")
    assert spool.flush(TIMEOUT_S)
    commits = spool._commits
    look = GroupCommit.first_queued

    def filled_meanwhile(_: GroupCommit[Any]) -> Any:
        found = look(commits)
        if found is None:
            in_a_thread(lambda: [store(spool, f"r{number}") for number in (1, 2)])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupCommit, "first_queued", filled_meanwhile)
        end = spool.end_of_closed()
    spool.close(5.0)
    assert end == 1


def test_a_record_that_is_refused_during_a_commit_is_counted(tmp_path: Path) -> None:
    """Refusals come at any time, also between their being written and the end of the fsync."""
    spool = open_spool(tmp_path, record_bytes_max=1000)

    def refuse_another(_: SpoolFile) -> None:
        in_a_thread(lambda: spool.append(draft("late", size=2000)))

    spool.append(draft("early", size=2000))
    spool.perform(refuse_another)
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {"too_large": 2}
    assert problems_of(tmp_path) == []


def test_a_hole_that_is_offered_twice_is_named_once(tmp_path: Path) -> None:
    """An emit was torn after it took its number; then a stranger held the file."""
    spool = open_spool(tmp_path, emit_timeout_s=0.3)
    store(spool, "r1")
    life = spool.life
    assert life is not None
    life.next_sequence += 1
    make_faulty(spool, "BEGIN", sqlite3.OperationalError("database is locked"), times=2)
    store(spool, "r3")
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {"interrupted": 1}
    assert problems_of(tmp_path) == []


def wreck_index(path: Path, name: str) -> None:
    """Overwrite the root page of an index."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        root, size = connection.execute(
            "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = ?",
            (name,),
        ).fetchone()
    with open(path, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


def test_a_file_that_breaks_as_it_is_looked_at_costs_no_other_file_its_adoption(
    tmp_path: Path,
) -> None:
    """Whether something waits is asked of the file too, and it can be damaged there."""
    spools = [open_spool(tmp_path) for _ in range(2)]
    for number, spool in enumerate(spools):
        store(spool, f"r{number}")
    spools[0].close(5.0)
    spools[1].perform(lambda file: file.connection.execute("DELETE FROM record"))
    spools[1].close(5.0)
    wreck_index(tmp_path / "memoir-0002.db", "gap_untold")
    adoption = Adoption(tmp_path, wall_ns=lambda: 1)
    found = adoption.look(most=16)
    assert [source.file.name for source in found] == ["memoir-0001"]
    assert [path.name for path in broken_files(tmp_path)] == ["broken-0002-1.db"]
    for source in found:
        adoption.release(source)


def test_a_broken_file_that_cannot_be_moved_aside_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that breaks a file may also refuse the rename."""
    spool = open_spool(tmp_path)
    store(spool, "r1")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    make_faulty(spool, "COMMIT", sqlite3.DatabaseError("database disk image is malformed"))
    store(spool, "r2")
    ticket = store(spool, "r3")
    spool.close(5.0)
    assert ticket.refusal is None
    rows = select(tmp_path / "memoir-0002.db", "SELECT payload FROM record")
    assert [row[0][:4] for row in rows] == [b"<r2>", b"<r3>"]


def test_a_hold_that_a_dead_process_left_ends_with_the_first_delivery(tmp_path: Path) -> None:
    """Its time is over when the next process comes, which is told nothing of it."""
    spool = open_spool(tmp_path)
    put(spool, "r1")
    spool.perform(
        lambda file: file.connection.execute(
            "UPDATE courier SET held_since_unix_ns = 1, not_before_unix_ns = 2, code = 'http 401'"
        )
    )
    spool.close(5.0)
    deliver_all(tmp_path)
    held = select(tmp_path / "memoir-0001.db", "SELECT held_since_unix_ns, code FROM courier")
    assert held == [(0, "")]


def in_memory(tmp_path: Path, **given: Any) -> Spool:
    """A spool without a usable directory."""
    (tmp_path / "file").write_text("not a directory")
    return open_spool(tmp_path / "file", **given)


def test_without_a_directory_memory_is_bounded(tmp_path: Path) -> None:
    """By `memory_bytes_max`: nobody's process has room for what a disk has."""
    spool = in_memory(tmp_path, memory_bytes_max=2**16)
    found = [spool.append(draft(f"r{number}", size=10_000)) for number in range(10)]
    spool.close(5.0)
    assert is_refused(found[-1], "full")
    assert not any(is_refused(each, "full") for each in found[:4])


def test_without_a_directory_nothing_is_retained(tmp_path: Path) -> None:
    """What was delivered need not be kept in memory for queries that nobody can make."""
    spool = in_memory(tmp_path, **QUICK)
    courier = courier_of(spool, Destination())
    for number in range(3):
        put(spool, f"r{number}")
    assert courier.wait_drained(TIMEOUT_S)
    upkeep, file = spool._home.upkeep, spool.file
    assert upkeep is not None
    assert file is not None
    assert upkeep.has_step(file)
    stop(courier, spool)


def test_a_system_without_preallocation_has_a_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no posix_fallocate."""
    monkeypatch.delattr(os, "posix_fallocate")
    spool = open_spool(tmp_path)
    assert store(spool, "r1").stored
    spool.close(5.0)
    assert (tmp_path / "memoir-0001.ballast").stat().st_size == 2 * 2**20


@pytest.mark.slow
def test_a_close_that_everything_holds_up_takes_its_timeout_once(tmp_path: Path) -> None:
    """Each of its four waits took as long: a shutdown of five seconds could take twenty."""
    spool = open_spool(tmp_path, durability="process")
    store(spool, "a")
    with held_elsewhere(spool.reading.acquire, spool.reading.release), held_elsewhere(
        lambda: spool._commits.hold(TIMEOUT_S), spool._commits.let_go
    ):
        began_s = time.monotonic()
        spool.close(4.0)
        took_s = time.monotonic() - began_s
    spool.close(5.0)
    assert took_s < 9.0


@pytest.mark.slow
def test_a_close_that_has_nothing_to_flush_takes_its_timeout_once_too(tmp_path: Path) -> None:
    """It waited as long for those who read, and then for those who commit."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool._writer.stop(TIMEOUT_S)
    with held_elsewhere(spool.reading.acquire, spool.reading.release), held_elsewhere(
        lambda: spool._commits.hold(TIMEOUT_S), spool._commits.let_go
    ):
        began_s = time.monotonic()
        spool.close(4.0)
        took_s = time.monotonic() - began_s
    spool.close(5.0)
    assert took_s < 7.0


def test_what_is_settled_in_a_file_that_was_left_takes_no_room_from_the_next(
    tmp_path: Path,
) -> None:
    """A failover came between the commit of a settlement and its being counted."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    assert spool.file is not None
    source = OwnSource(spool, spool.file)
    spool.leave_file(sqlite3.OperationalError("disk I/O error"))
    source.settled(100, delivered=True)
    upkeep = spool._home.upkeep
    assert upkeep is not None
    assert (upkeep._waiting_bytes, upkeep._retained_bytes) == (0, 0)
    spool.close(5.0)


@contextmanager
def held_elsewhere(take: Callable[[], Any], give: Callable[[], Any]) -> Iterator[None]:
    """Have another thread hold something."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        take()
        taken.set()
        over.wait(TIMEOUT_S)
        give()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(TIMEOUT_S)
        yield
    finally:
        over.set()
        thread.join(TIMEOUT_S)


def test_what_was_evicted_is_not_said_to_be_delivered(tmp_path: Path) -> None:
    """`wait_drained` is about what waits; what was given up on is lost."""
    spool = open_spool(tmp_path, spool_bytes_max=2**16, when_full="evict", request_records_max=1)
    for number in range(20):
        store(spool, f"r{number}", size=4000)
    assert totals_of(tmp_path).evicted
    assert spool.has_evicted
    spool.close(5.0)


@pytest.mark.parametrize("about_to", ["be sent", "be set aside", "expire"])
def test_a_batch_that_is_evicted_in_the_middle_has_one_end_only(
    tmp_path: Path, about_to: str
) -> None:
    """It has its end, and its gap, already: it is neither sent, nor parted, nor expired."""
    spool = open_spool(
        tmp_path, spool_bytes_max=2**16, when_full="evict", request_records_max=1, **QUICK
    )
    taker = Destination()
    courier = courier_of(spool, taker)
    spool.on_accept = lambda: None
    put(spool, "first", size=15_000)
    read = SpoolFile.rows

    def evict() -> bool:
        if spool.has_evicted:
            return False
        for number in range(4):
            put(spool, f"r{number}", size=15_000)
        return True

    def evicted_meanwhile(file: SpoolFile, *ids: int) -> Any:
        found = read(file, *ids)
        is_damaged = evict() and about_to == "be set aside"
        return ([], {ids[0]: "it is damaged"}) if is_damaged else found

    with pytest.MonkeyPatch.context() as patch:
        if about_to == "expire":
            patch.setattr(Planner, "is_expired", lambda *_: evict())
        patch.setattr(SpoolFile, "rows", evicted_meanwhile)
        drained = courier.wait_drained(TIMEOUT_S)
    stop(courier, spool)
    assert drained
    assert spool.has_evicted
    assert taker.copies(b"<first>") == 0
    assert problems_of(tmp_path) == []
    totals = totals_of(tmp_path)
    assert (totals.expired, totals.quarantined, totals.unaccounted) == (0, 0, 0)
    gaps = select(tmp_path / "memoir-0001.db", "SELECT cause FROM gap WHERE first_sequence = 1")
    assert gaps == [("evicted",)]


def test_what_a_left_file_holds_is_not_taken_for_drained(tmp_path: Path) -> None:
    """Right after a failover the courier has not taken the old file over yet."""
    spool = open_spool(tmp_path, **{**QUICK, "adoption_interval_s": 600.0})
    taker = Destination()
    courier = courier_of(spool, taker)
    put(spool, "r1")
    assert courier.wait_drained(TIMEOUT_S)
    taker.is_open = False
    put(spool, "r2")
    spool.leave_file(sqlite3.OperationalError("disk I/O error"))
    taker.is_open = True
    drained = courier.wait_drained(TIMEOUT_S)
    stop(courier, spool)
    assert drained
    assert taker.copies(b"<r2>") == 1


def test_a_clear_answer_that_is_written_twice_counts_once(tmp_path: Path) -> None:
    """A slow disk can carry a settlement out after its courier gave up waiting for it."""
    spool = open_spool(tmp_path, request_records_max=1)
    store(spool, "r1")
    store(spool, "r2")

    def settle_twice(file: SpoolFile) -> None:
        batch = ledger.next_unledgered(file.connection, 0, 2**62, 1)
        assert batch is not None
        ledger.open_batch(file.connection, batch)
        ledger.note_attempt(file.connection, batch)
        for _ in range(2):
            ledger.note_clear_answer(file.connection, batch)
            ledger.settle(file.connection, batch, State.DELIVERED, unix_ns=1)

    spool.perform(settle_twice)
    spool.close(5.0)
    assert totals_of(tmp_path).ambiguous_attempts == 0


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Another thread holds a lock for as long as the block takes."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            over.wait(TIMEOUT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(TIMEOUT_S)
    try:
        yield
    finally:
        over.set()
        thread.join(TIMEOUT_S)


def test_the_end_waits_for_no_reader_for_longer_than_it_may(tmp_path: Path) -> None:
    """A courier whose disk is stuck holds the lock of those who read."""
    processor = DurableLogRecordProcessor(
        spool_dir=str(tmp_path), sender=Destination(), shutdown_timeout_s=0.2
    )
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    provider.get_logger("t").emit(LogRecord(body="x"))
    assert processor.wait_delivered(TIMEOUT_S)
    parts = processor.pipeline._made["parts"]
    ended = threading.Event()

    def end() -> None:
        processor.wait_delivered(0.1)
        processor.shutdown()
        ended.set()

    thread = threading.Thread(target=end)
    with held(parts.spool.reading):
        thread.start()
        assert ended.wait(TIMEOUT_S - 5.0)
    thread.join(TIMEOUT_S)


def test_a_sqlite_that_is_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is a syntax error in a statement that nobody wrote."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(SpoolError, match=r"3\.37"):
        open_writer(tmp_path / "x.db", synchronous="FULL")


def test_payloads_that_could_not_be_pruned_are_still_counted_as_retained(tmp_path: Path) -> None:
    """Pruning writes, and a full disk says no; the bound must hold once it can."""
    spool = open_spool(tmp_path, retain_bytes_max=0, **QUICK)
    courier = courier_of(spool, Destination())
    put(spool, "r1")
    assert courier.wait_drained(TIMEOUT_S)
    courier.close(5.0)
    upkeep = spool._home.upkeep
    assert upkeep is not None
    spool._writer.stop(5.0)
    before = upkeep._retained_bytes

    def fail_after(file: SpoolFile) -> None:
        upkeep.step(file)
        raise ValueError

    with pytest.raises(ValueError):
        spool.perform(fail_after)
    assert upkeep._retained_bytes == before
    spool.close(5.0)


def test_a_meter_provider_that_fails_costs_no_record() -> None:
    """It is the application's; what it raises must not meet a record."""

    class Broken:
        def get_meter(self, _: str) -> None:
            raise RuntimeError

    observe(cast(Any, None), cast(Any, Broken()))


def test_the_envelopes_that_are_read_are_kept_in_bounded_memory(tmp_path: Path) -> None:
    """A program may make a logger for each request."""
    spool = open_spool(tmp_path)
    for number in range(1100):
        spool.append(draft(f"r{number}")._replace(envelope=b"envelope %d" % number))
    file = spool.file
    assert file is not None
    rows, wrong = file.rows(1, 1100)
    assert (len(rows), wrong) == (1100, {})
    assert len(file._envelopes) <= 1024
    spool.close(5.0)


def test_a_fork_child_can_complain_though_its_parent_was_complaining() -> None:
    """The lock of a thread that is not there would keep it silent for good."""
    with complaints._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if complaints._lock.acquire(timeout=0.0) else 1)
        _, status = os.waitpid(child, 0)
    assert status == 0


def test_a_record_that_is_refused_while_the_spool_closes_is_counted(tmp_path: Path) -> None:
    """The last commit was made before it came."""
    spool = open_spool(tmp_path)
    store(spool, "r1")
    writer = spool._writer
    stop_writer = writer.stop

    def stop_and_emit(timeout: float) -> None:
        stop_writer(timeout)
        spool.append(draft("late"))

    writer.stop = stop_and_emit  # type: ignore[method-assign]  # as another thread would
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {"after_shutdown": 1}


@pytest.mark.parametrize(
    "given", [{"spool_dir": 5}, {"headers": "token=x"}, {"insecure": "no"}, {"endpoint": b"http://x"}]
)
def test_a_setting_of_another_type_is_refused_at_once(given: dict[str, Any]) -> None:
    """Else the first record meets it, and each one after: none is stored, none counted."""
    with pytest.raises(SettingsError, match=next(iter(given))):
        Settings(**given)


def test_a_path_is_as_good_as_its_text(tmp_path: Path) -> None:
    """Where a setting is a path."""
    assert Settings.load(environ={}, spool_dir=tmp_path).spool_dir == tmp_path
