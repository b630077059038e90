"""The spool: what was accepted is there, in order, and every loss is named."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from otel_memoir.delivery import Courier
from otel_memoir.errors import SpoolError
from otel_memoir.settings import Settings
from otel_memoir.spool import Batch, Draft, Refused, Spool, State, Ticket, ledger, schema
from otel_memoir.spool.connection import set_synchronous
from otel_memoir.spool.directory import Slot, is_held, take_slot
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.inspect import status_of, status_of_directory
from otel_memoir.spool.verify import verify_directory
from spool_helpers import (
    Destination,
    all_names_in,
    courier_of,
    disk_full,
    draft,
    is_refused,
    make_faulty,
    make_stamper,
    open_spool,
    own_draft,
    problems_of,
    put,
    select,
    stop,
    store,
    totals_of,
)

WAIT_S = 10.0


def delivering(directory: Path, **given: object) -> tuple[Spool, Courier, Destination]:
    """An unopened spool with its courier."""
    spool = open_spool(directory, linger_s=0.0, adoption_interval_s=0.05, **given)
    sender = Destination()
    return spool, courier_of(spool, sender), sender


def in_child(work: Callable[[], object]) -> int:
    """Run work in a fork child; its exit status, 0 where nothing was raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"child: {error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Whether a condition comes true in time."""
    waiting = threading.Event()
    for _ in range(int(timeout / 0.02)):
        if condition():
            return True
        waiting.wait(0.02)
    return False


# -- what is accepted ---------------------------------------------------------


def test_an_accepted_record_is_on_disk_with_the_next_number(tmp_path: Path) -> None:
    """Rows, sequence numbers and the counter agree, while the spool is open."""
    spool = open_spool(tmp_path)
    tickets = [store(spool, f"r{n}") for n in range(5)]
    assert [ticket.sequence for ticket in tickets] == [1, 2, 3, 4, 5]
    assert all(ticket.stored for ticket in tickets)
    assert all_names_in(tmp_path) == [f"r{n}" for n in range(5)]
    assert (totals_of(tmp_path).accepted, totals_of(tmp_path).pending) == (5, 5)
    assert problems_of(tmp_path) == []
    spool.close(5.0)


def test_verify_finds_a_row_that_somebody_deleted(tmp_path: Path) -> None:
    """The control of every ``problems_of(...) == []`` in these tests."""
    spool = open_spool(tmp_path)
    for number in range(3):
        store(spool, f"r{number}")
    spool.close(5.0)
    with closing(sqlite3.connect(tmp_path / "memoir-0001.db")) as connection:
        connection.execute("DELETE FROM record WHERE sequence = 2")
        connection.commit()
    assert any("2..2 are nowhere" in problem for problem in problems_of(tmp_path))


def test_each_life_of_a_file_is_an_epoch_that_counts_from_one(tmp_path: Path) -> None:
    """One stream id, epochs 1 and 2, both contiguous from 1."""
    for _ in range(2):
        spool = open_spool(tmp_path)
        store(spool, "a")
        store(spool, "b")
        spool.close(5.0)
    rows = select(
        tmp_path / "memoir-0001.db", "SELECT stream_id, epoch, sequence, ended FROM stream"
    )
    assert [row[1:] for row in rows] == [(1, 2, "clean"), (2, 2, "clean")]
    assert rows[0][0] == rows[1][0]
    assert problems_of(tmp_path) == []


def test_a_record_that_is_too_large_is_refused_counted_and_a_gap(tmp_path: Path) -> None:
    """It takes no sequence number; the next commit writes the refusal down."""
    spool = open_spool(tmp_path, record_bytes_max=2000)
    store(spool, "small")
    assert is_refused(spool.append(draft("large", size=3000)), "too_large")
    assert store(spool, "next").sequence == 2
    assert dict(totals_of(tmp_path).refused) == {"too_large": 1}
    file = tmp_path / "memoir-0001.db"
    assert select(file, "SELECT cause, records FROM gap") == [("refused:too_large", 1)]
    spool.close(5.0)
    assert problems_of(tmp_path) == []


def test_a_refusal_is_written_down_though_nothing_is_accepted_after_it(tmp_path: Path) -> None:
    """A clean end leaves no refusal in memory."""
    spool = open_spool(tmp_path, record_bytes_max=2000)
    spool.append(draft("large", size=3000))
    spool.close(5.0)
    assert dict(totals_of(tmp_path).refused) == {"too_large": 1}


def test_emit_after_the_end_is_refused_at_once(tmp_path: Path) -> None:
    """It neither raises nor opens the file again."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    assert is_refused(spool.append(draft("b")), "after_shutdown")
    assert all_names_in(tmp_path) == ["a"]


@pytest.mark.timeout(30)
def test_a_record_that_cannot_be_stamped_is_refused_and_counted(tmp_path: Path) -> None:
    """The clock may be the application's own; what it raises costs no number."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    assert spool.life is not None
    plain = spool.life.stamp

    def broken(draft: Draft, sequence: int) -> tuple[bytes, int]:
        raise ZeroDivisionError

    spool.life.stamp = broken
    assert is_refused(spool.append(draft("x")), "broken")
    spool.life.stamp = plain
    assert store(spool, "second").sequence == 2
    spool.close(5.0)
    assert dict(totals_of(tmp_path).refused) == {"broken": 1}


def test_an_emit_that_races_with_the_end_is_stored_or_refused_but_not_left_waiting(
    tmp_path: Path,
) -> None:
    """Its thread passed the check for the end just before the end came."""
    spool = open_spool(tmp_path, emit_timeout_s=2.0)
    store(spool, "first")
    checked, go_on = threading.Event(), threading.Event()
    plain = spool._intake.reason_to_refuse
    answers: list[object] = []

    def slow(found: Draft, *, on_loop: bool = False) -> object:
        reason = plain(found, on_loop=on_loop)
        if threading.current_thread().name == "racer":
            checked.set()
            go_on.wait(WAIT_S)
        return reason

    spool._intake.reason_to_refuse = slow  # type: ignore[assignment,method-assign]  # slows one
    racer = threading.Thread(
        target=lambda: answers.append(spool.append(draft("racer"))), name="racer", daemon=True
    )
    racer.start()
    assert checked.wait(WAIT_S)
    spool.close(5.0)
    go_on.set()
    racer.join(1.0)
    is_quick = not racer.is_alive()
    racer.join(WAIT_S)
    stored = "racer" in all_names_in(tmp_path)
    assert stored or is_refused(answers[0], "after_shutdown"), answers
    assert is_quick


# -- processes ----------------------------------------------------------------


def test_a_fork_child_is_a_new_stream_and_its_end_leaves_the_parents_lock(tmp_path: Path) -> None:
    """The child takes another slot; the parent's slot stays held, and goes on."""
    spool = open_spool(tmp_path)
    store(spool, "parent")

    def child() -> None:
        assert spool.file is None
        assert store(spool, "child").sequence == 1
        spool.close(5.0)

    assert in_child(child) == 0
    assert is_held(Slot(tmp_path, 1))
    assert store(spool, "again").sequence == 2
    streams = [
        select(tmp_path / f"memoir-000{n}.db", "SELECT stream_id, sequence FROM stream")
        for n in (1, 2)
    ]
    assert [len(rows) for rows in streams] == [1, 1]
    assert streams[0][0][0] != streams[1][0][0]
    assert all_names_in(tmp_path) == ["parent", "again", "child"]
    spool.close(5.0)
    assert problems_of(tmp_path) == []


def test_a_fork_child_that_ends_as_an_interpreter_does_not_harm_the_parents_file(
    tmp_path: Path,
) -> None:
    """Its interpreter tears down the inherited connection's objects; the log must stay."""
    script = (
        "import os, sys, pathlib\n"
        "from spool_helpers import all_names_in, open_spool, store\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "spool = open_spool(directory)\n"
        "store(spool, 'parent')\n"
        "if os.fork() == 0:\n"
        "    sys.exit(0)\n"
        "os.wait()\n"
        "store(spool, 'again')\n"
        "os._exit(0 if all_names_in(directory) == ['parent', 'again'] else 1)\n"
    )
    here = str(Path(__file__).parent)
    argv = [sys.executable, "-c", script, str(tmp_path)]
    assert os.spawnve(os.P_WAIT, sys.executable, argv, {**os.environ, "PYTHONPATH": here}) == 0
    assert all_names_in(tmp_path) == ["parent", "again"]


def test_a_slot_goes_to_one_process_only_and_is_taken_again_after_a_kill(tmp_path: Path) -> None:
    """The lock is the only sign of life."""
    lock = take_slot(tmp_path)
    assert lock.slot.number == 1
    second = take_slot(tmp_path)
    assert second.slot.number == 2
    second.release()
    assert is_held(Slot(tmp_path, 1))
    child = os.fork()
    if child == 0:
        take_slot(tmp_path)
        signal.pause()
    assert eventually(lambda: is_held(Slot(tmp_path, 2)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_held(Slot(tmp_path, 2))
    lock.release()
    assert not is_held(Slot(tmp_path, 1))


def test_what_a_dead_process_left_is_adopted_and_delivered_once(tmp_path: Path) -> None:
    """A child that holds slot 2 dies with waiting records; our courier sends them."""
    spool, courier, sender = delivering(tmp_path)
    put(spool, "mine")

    def child() -> None:
        spool.on_accept = lambda: None
        for number in range(3):
            put(spool, f"orphan{number}")

    assert in_child(child) == 0
    assert eventually(lambda: all(sender.copies(b"<orphan%d>" % n) for n in range(3)))
    assert courier.wait_drained(5.0)
    stop(courier, spool)
    totals = totals_of(tmp_path)
    assert (totals.accepted, totals.delivered, totals.unaccounted) == (4, 4, 0)
    assert sender.copies(b"<orphan1>") == 1
    assert problems_of(tmp_path) == []


def test_a_process_that_never_rests_does_not_starve_what_a_dead_one_left(tmp_path: Path) -> None:
    """After some batches of our own file it is the other one's turn."""
    spool, courier, sender = delivering(tmp_path, request_records_max=1)
    spool.on_accept = lambda: None
    for number in range(40):
        put(spool, f"mine{number}")
    assert in_child(lambda: put(spool, "orphan")) == 0
    courier.wake()
    assert courier.wait_drained(20.0)
    stop(courier, spool)
    turn = next(n for n, request in enumerate(sender.requests) if b"<orphan>" in request)
    assert turn < 20
    assert len(sender.requests) == 41


def test_a_copy_of_a_file_gets_a_stream_id_of_its_own(tmp_path: Path) -> None:
    """Else two copies would give the same (stream, epoch, sequence) to different records."""
    spool = open_spool(tmp_path / "one")
    store(spool, "a")
    spool.close(5.0)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ids = []
    for name in ("one", "two"):
        spool = open_spool(tmp_path / name)
        store(spool, "b")
        spool.close(5.0)
        rows = select(
            tmp_path / name / "memoir-0001.db", "SELECT stream_id FROM stream ORDER BY id"
        )
        ids.append([row[0] for row in rows])
    assert ids[0][0] == ids[0][1] == ids[1][0]
    assert ids[1][1] != ids[1][0]


def test_a_file_restored_in_place_of_itself_does_not_repeat_its_numbers(tmp_path: Path) -> None:
    """A restored backup may get the inode of the file that it replaces."""
    directory, backup = tmp_path / "spool", tmp_path / "backup"
    spool = open_spool(directory)
    store(spool, "a")
    spool.close(5.0)
    shutil.copytree(directory, backup)
    names = []
    for _ in range(2):
        spool = open_spool(directory)
        ticket = store(spool, "b")
        names.append((ticket.life.stream, ticket.sequence))
        spool.close(5.0)
        (directory / "memoir-0001.db").unlink()
        shutil.copy(backup / "memoir-0001.db", directory / "memoir-0001.db")
    assert names[0] != names[1]


# -- what was in memory ---------------------------------------------------------


def test_a_process_that_dies_in_batch_leaves_a_gap_with_an_upper_bound(tmp_path: Path) -> None:
    """The next one to open the file names the numbers that may be lost."""

    def die() -> None:
        spool = open_spool(tmp_path, durability="batch", batch_delay_s=30.0)
        spool.append(draft("first"))
        assert spool.flush(5.0)
        spool.append(draft("in memory"))

    assert in_child(die) == 0
    assert all_names_in(tmp_path) == ["first"]
    spool = open_spool(tmp_path)
    store(spool, "next")
    gaps = select(
        tmp_path / "memoir-0001.db",
        "SELECT cause, first_sequence, last_sequence >= 2, at_most FROM gap",
    )
    assert gaps == [("unclean_end", 2, 1, 1)]
    spool.close(5.0)


def test_a_clean_end_in_batch_leaves_no_gap(tmp_path: Path) -> None:
    """The control: only numbers that may be lost are named."""
    spool = open_spool(tmp_path, durability="batch")
    for number in range(10):
        spool.append(draft(f"r{number}"))
    spool.close(5.0)
    spool = open_spool(tmp_path)
    store(spool, "next")
    assert select(tmp_path / "memoir-0001.db", "SELECT * FROM gap") == []
    assert len(all_names_in(tmp_path)) == 11
    spool.close(5.0)


def test_a_process_that_dies_in_power_leaves_no_gap(tmp_path: Path) -> None:
    """Nothing was in memory."""
    assert in_child(lambda: store(open_spool(tmp_path), "a")) == 0
    spool = open_spool(tmp_path)
    store(spool, "b")
    assert select(tmp_path / "memoir-0001.db", "SELECT * FROM gap") == []
    assert all_names_in(tmp_path) == ["a", "b"]
    spool.close(5.0)


def emit_on_a_loop(spool: Spool, count: int, **given: int) -> None:
    """Append records on a thread that runs an event loop which must not block."""

    async def main() -> None:
        with blockbuster_ctx():
            for number in range(count):
                found = spool.append(draft(f"r{number}", **given))
                assert not isinstance(found, Refused)
                await asyncio.sleep(0)

    asyncio.run(main())
    assert spool.flush(5.0)


def test_an_event_loop_is_not_blocked_by_its_first_record_nor_by_any_other(tmp_path: Path) -> None:
    """blockbuster, which ``langgraph dev`` runs, raises where a loop's thread blocks."""
    spool = open_spool(tmp_path)
    emit_on_a_loop(spool, 100)
    assert all_names_in(tmp_path) == [f"r{number}" for number in range(100)]
    spool.close(5.0)


def test_an_event_loop_is_not_blocked_by_an_eviction(tmp_path: Path) -> None:
    """The writer evicts, after the fact; the oldest go, and are counted."""
    spool = open_spool(
        tmp_path, when_full="evict", spool_bytes_max=2**16, request_records_max=4
    )
    emit_on_a_loop(spool, 100, size=1000)
    evicted = eventually(lambda: totals_of(tmp_path).evicted > 30)
    spool.close(5.0)
    totals = totals_of(tmp_path)
    assert evicted, totals
    assert totals.accepted + sum(totals.refused.values()) == 100
    assert totals.unaccounted == 0
    assert problems_of(tmp_path) == []


def test_blockbuster_sees_a_loop_that_is_told_to_block(tmp_path: Path) -> None:
    """The control."""
    spool = open_spool(tmp_path, on_event_loop="block")

    async def main() -> None:
        with blockbuster_ctx():
            spool.append(draft("x"))

    with pytest.raises(BlockingError):
        asyncio.run(main())
    spool.close(5.0)


def test_a_record_handed_over_on_an_event_loop_is_named_when_the_process_dies(
    tmp_path: Path,
) -> None:
    """The first commit for a loop has reserved numbers for what comes after it."""

    def die() -> None:
        async def main() -> None:
            spool = open_spool(tmp_path, batch_delay_s=30.0)
            assert spool.append(draft("first")) is None
            assert spool.flush(5.0)
            assert isinstance(spool.append(draft("in memory")), Ticket)
            os._exit(0)

        asyncio.run(main())

    assert in_child(die) == 0
    assert all_names_in(tmp_path) == ["first"]
    spool = open_spool(tmp_path)
    store(spool, "next")
    assert select(tmp_path / "memoir-0001.db", "SELECT cause FROM gap") == [("unclean_end",)]
    spool.close(5.0)


# -- files that cannot be used ------------------------------------------------


def test_a_sqlite_that_takes_another_level_of_durability_is_not_used(tmp_path: Path) -> None:
    """Durability is read back, not only asked for; records then stay in memory, and it is said."""

    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *args)

    careless = sqlite3.connect(tmp_path / "any.db", factory=Careless, isolation_level=None)
    with closing(careless), pytest.raises(SpoolError, match="did not take synchronous=FULL"):
        set_synchronous(careless, "FULL")


def test_a_directory_that_cannot_be_fsynced_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite ignores it; the name of a new file could be gone after a power cut."""

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("otel_memoir.spool.file.sync_directory", fail)
    spool = open_spool(tmp_path)
    ticket = spool.append(draft("x"))
    assert isinstance(ticket, Ticket)
    assert not ticket.stored
    spool.close(5.0)


def test_a_stranger_who_reads_and_writes_meanwhile_costs_no_record(tmp_path: Path) -> None:
    """A transaction that began by reading could not be written any more: BEGIN IMMEDIATE."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    stranger = sqlite3.connect(tmp_path / "memoir-0001.db", isolation_level=None)

    def read_then_write(file: SpoolFile) -> None:
        file.connection.execute("SELECT count(*) FROM record").fetchone()
        with contextlib.suppress(sqlite3.OperationalError):  # locked, as it must be
            stranger.execute("UPDATE courier SET hint = 'a stranger was here'")
        file.connection.execute("UPDATE courier SET beats = beats")

    with closing(stranger):
        stranger.execute("PRAGMA busy_timeout = 0")
        spool.perform(read_then_write)
    assert is_on_disk(tmp_path, "SELECT hint FROM courier") == ""
    spool.close(5.0)


def is_on_disk(directory: Path, query: str) -> object:
    """The first value of a query to the first file."""
    return select(directory / "memoir-0001.db", query)[0][0]


INDEXES_OF_2 = ("batch_end", "batch_ambiguous")


def make_older(file: Path, version: int) -> None:
    """Make a file what an older version wrote."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE intent")
        for index in INDEXES_OF_2 if version == 1 else ():
            connection.execute(f"DROP INDEX {index}")
        if version == 1:
            connection.execute("ALTER TABLE stream DROP COLUMN last_unix_ns")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


def version_and_additions(file: Path) -> tuple[int, list[str]]:
    """The format of a file, and which of the newer indexes and tables it has."""
    with closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        return (
            connection.execute("PRAGMA user_version").fetchone()[0],
            [name for name in (*INDEXES_OF_2, "intent") if name in names],
        )


@pytest.mark.parametrize(("version", "has"), [(1, []), (2, list(INDEXES_OF_2))])
def test_an_older_file_is_read_as_it_is_and_migrated_by_its_next_writer(
    tmp_path: Path, version: int, has: list[str]
) -> None:
    """Nobody who only looks changes it; what it holds stays and counts."""
    file = tmp_path / "memoir-0001.db"
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    make_older(file, version)
    assert [v.findings for v in verify_directory(tmp_path)] == [()]
    assert status_of_directory(tmp_path)[0].totals.pending == 1
    assert version_and_additions(file) == (version, has)
    spool = open_spool(tmp_path)
    store(spool, "b")
    spool.close(5.0)
    assert version_and_additions(file) == (3, [*INDEXES_OF_2, "intent"])
    assert [v.findings for v in verify_directory(tmp_path)] == [()]
    assert status_of_directory(tmp_path)[0].totals.pending == 2


def test_a_new_life_knows_the_latest_time_of_those_before_it(tmp_path: Path) -> None:
    """Also once every payload is gone: what was delivered must not be followed by less."""
    for name in "abc":
        spool = open_spool(tmp_path)
        store(spool, name)
        store(spool, name)
        spool.close(5.0)
    with closing(sqlite3.connect(tmp_path / "memoir-0001.db")) as connection:
        connection.execute("DELETE FROM record")
        connection.commit()
    spool = open_spool(tmp_path)
    spool.open()
    assert spool.life is not None
    assert (spool.life.stream.epoch, spool.life.stream.after_unix_ns) == (4, 2)
    spool.perform(lambda file: None)
    spool.close(5.0)


def test_a_clock_that_goes_back_ends_the_stream_and_begins_the_next(tmp_path: Path) -> None:
    """Order is by epoch then: no time of a stream decreases, and no number is a gap."""
    epoch = [0]
    spool = Spool(
        Settings(disk_free_bytes_min=0), directory=tmp_path, make_stamper=make_stamper,
        clock_epoch=lambda: epoch[0],
    )
    store(spool, "a")
    store(spool, "b")
    first = spool.life
    epoch[0] = 1
    assert eventually(lambda: spool.life is not first)
    store(spool, "c")
    spool.close(5.0)
    assert select(
        tmp_path / "memoir-0001.db", "SELECT epoch, sequence, ended, reserved FROM stream"
    ) == [(1, 2, "clean", 2), (2, 1, "clean", 1)]
    assert select(tmp_path / "memoir-0001.db", "SELECT batch FROM record") == [(1,), (1,), (2,)]
    assert select(tmp_path / "memoir-0001.db", "SELECT * FROM gap") == []
    assert problems_of(tmp_path) == []


def test_a_stream_that_ends_while_records_wait_in_memory_ends_once_they_are_stored(
    tmp_path: Path,
) -> None:
    """In `batch` the old stream's last records are still in the queue when the new one begins."""
    epoch = [0]
    spool = Spool(
        Settings(disk_free_bytes_min=0, durability="batch", batch_delay_s=0.05),
        directory=tmp_path, make_stamper=make_stamper, clock_epoch=lambda: epoch[0],
    )
    store(spool, "a0")
    for number in range(1, 200):
        store(spool, f"a{number}")
        epoch[0] = number // 20
    assert eventually(lambda: not spool._home.is_over)
    spool.close(5.0)
    file = tmp_path / "memoir-0001.db"
    assert select(file, "SELECT sum(sequence) FROM stream") == [(200,)]
    assert {ended for (ended,) in select(file, "SELECT ended FROM stream")} == {"clean"}
    assert select(file, "SELECT * FROM gap") == []
    assert problems_of(tmp_path) == []


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another slot is used, and the older file can be migrated later."""
    file = tmp_path / "memoir-0001.db"
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    make_older(file, 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            schema, "MIGRATIONS", {1: f"{schema.MIGRATIONS[1]}; CREATE TABLE broken broken"}
        )
        spool = open_spool(tmp_path)
        store(spool, "b")
        spool.close(5.0)
    assert version_and_additions(file) == (1, [])
    assert status_of_directory(tmp_path)[0].totals.pending == 1
    spool = open_spool(tmp_path)
    spool.open()
    spool.close(5.0)
    assert version_and_additions(file) == (3, [*INDEXES_OF_2, "intent"])


@pytest.mark.parametrize("older", [False, True])
def test_a_status_reads_neither_all_rows_nor_the_whole_ledger(
    tmp_path: Path, older: bool
) -> None:
    """Metrics ask each few seconds, for years. Negative control: without its indexes it does."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    file = tmp_path / "memoir-0001.db"
    if older:
        make_older(file, 1)
    with closing(sqlite3.connect(file)) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        status_of(connection, name="", path=file, alive=False, now_ns=0)
        connection.set_trace_callback(None)
        plans = [
            row[3] for sql in asked for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")
        ]
    scans = [step for step in plans if step in ("SCAN batch", "SCAN record")]
    assert bool(scans) is older, plans


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """It is neither written to nor moved; a slot beside it is used."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    file = tmp_path / "memoir-0001.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    spool = open_spool(tmp_path)
    store(spool, "b")
    assert spool.file is not None
    assert spool.file.name == "memoir-0002"
    spool.close(5.0)
    assert file.read_bytes() == before


def test_a_file_with_a_broken_header_is_moved_aside_whole_and_a_new_one_begun(
    tmp_path: Path,
) -> None:
    """Nothing is deleted, and the process can go on."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    spool.close(5.0)
    file = tmp_path / "memoir-0001.db"
    broken = b"garbage!" * 4 + file.read_bytes()[32:]
    file.write_bytes(broken)
    spool = open_spool(tmp_path)
    assert store(spool, "b").stored
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("broken-0001-")]
    assert [path.read_bytes() for path in aside] == [broken]
    assert all_names_in(tmp_path) == ["b"]
    spool.close(5.0)


@pytest.mark.parametrize("kind", ["a file", "a network file system"])
def test_without_a_usable_directory_records_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It says so, does not raise, and delivers from memory."""
    directory = tmp_path / "spool"
    if kind == "a file":
        directory.write_text("not a directory")
    else:
        monkeypatch.setattr("otel_memoir.spool.directory.file_system", lambda path: "nfs4")
    spool, courier, sender = delivering(directory)
    put(spool, "a")
    assert spool.file is not None
    assert (spool.file.name, spool.file.lock) == ("memory", None)
    assert courier.wait_drained(5.0)
    assert sender.copies(b"<a>")
    stop(courier, spool)


def test_a_damaged_row_is_quarantined_as_corrupt_and_the_rest_delivered(tmp_path: Path) -> None:
    """The bad row is never sent; its neighbours are."""
    spool = open_spool(tmp_path)
    for number in range(5):
        spool.append(own_draft(f"r{number}"))
    spool.close(5.0)
    with closing(sqlite3.connect(tmp_path / "memoir-0001.db")) as connection:
        connection.execute(
            "UPDATE record SET payload = CAST(payload || x'00' AS BLOB) WHERE sequence = 3"
        )
        connection.commit()
    spool, courier, sender = delivering(tmp_path)
    put(spool, "wake")
    assert eventually(lambda: all(sender.copies(b"<r%d>" % n) for n in (0, 1, 3, 4)))
    assert courier.wait_drained(5.0)
    stop(courier, spool)
    assert not sender.copies(b"<r2>")
    totals = totals_of(tmp_path)
    assert (totals.quarantined, totals.unaccounted, totals.pending) == (1, 0, 0)
    gaps = select(
        tmp_path / "memoir-0001.db", "SELECT cause, first_sequence, last_sequence FROM gap"
    )
    assert gaps == [("quarantined", 3, 3)]
    assert problems_of(tmp_path) == []


# -- room ---------------------------------------------------------------------


def test_a_full_spool_refuses_and_keeps_the_last_fifth_for_urgent_records(tmp_path: Path) -> None:
    """Below WARN it is full at four fifths."""
    spool = open_spool(tmp_path, spool_bytes_max=2**16)
    while isinstance(spool.append(draft("info", size=4000)), Ticket):
        pass
    assert totals_of(tmp_path).accepted < 14
    assert is_refused(spool.append(draft("info", size=4000)), "full")
    store(spool, "warn", size=4000, severity=13)
    spool.close(5.0)
    totals = totals_of(tmp_path)
    assert totals.refused["full"] == 2
    assert totals.accepted == totals.pending
    assert problems_of(tmp_path) == []


def test_evict_gives_up_the_oldest_batch_counts_it_and_names_it(tmp_path: Path) -> None:
    """New records are accepted; the evicted ones are a gap with their numbers."""
    spool = open_spool(
        tmp_path, spool_bytes_max=2**16, when_full="evict", request_records_max=4
    )
    for number in range(30):
        store(spool, f"r{number}", size=4000)
    spool.close(5.0)
    totals = totals_of(tmp_path)
    assert (totals.accepted, totals.unaccounted) == (30, 0)
    assert totals.evicted >= 16
    assert totals.evicted % 4 == 0
    gaps = select(
        tmp_path / "memoir-0001.db", "SELECT first_sequence, last_sequence, records FROM gap"
    )
    assert gaps[0] == (1, 4, 4)
    assert sum(gap[2] for gap in gaps) == totals.evicted
    assert not totals.refused
    assert problems_of(tmp_path) == []


def test_evict_makes_room_for_a_record_larger_than_the_oldest_batch(tmp_path: Path) -> None:
    """One batch may be too little; evicting it and refusing all the same loses both."""
    spool = open_spool(
        tmp_path, spool_bytes_max=2**16, when_full="evict", request_records_max=1
    )
    for number in range(12):
        store(spool, f"r{number}", size=4000)
    found = spool.append(draft("large", size=20_000))
    spool.close(5.0)
    assert isinstance(found, Ticket)


def test_retention_prunes_settled_payloads_and_nothing_else(tmp_path: Path) -> None:
    """Delivered payloads go when their time is over; a waiting one stays."""
    spool = open_spool(tmp_path, retain_s=0.0, request_records_max=2)
    for number in range(4):
        store(spool, f"r{number}")

    def deliver_first(file: SpoolFile) -> Batch:
        batch = ledger.next_unledgered(file.connection, file.ledgered_id, 2**62, 2)
        assert batch is not None
        ledger.open_batch(file.connection, batch)
        file.ledgered_id = batch.last_id
        ledger.settle(file.connection, batch, State.DELIVERED, unix_ns=1)
        return batch

    assert spool.perform(deliver_first).records == 2
    assert eventually(lambda: all_names_in(tmp_path) == ["r2", "r3"])
    spool.close(5.0)
    totals = totals_of(tmp_path)
    assert (totals.delivered, totals.pending, totals.unaccounted) == (2, 2, 0)
    assert problems_of(tmp_path) == []


# -- commits that fail --------------------------------------------------------


def test_ledger_rows_of_pruned_batches_become_few_however_many_streams_stand_before_them(
    tmp_path: Path,
) -> None:
    """A service that sends each second would keep 30 million of them a year."""
    spool = open_spool(tmp_path, request_records_max=1, retain_s=3600.0)
    store(spool, "first")
    file, upkeep = spool.file, spool._home.upkeep
    assert file is not None
    assert upkeep is not None
    streams = [*range(1000, 1200), *([2000] * 300)]  # 200 short lives, then a long one

    def fill(file: SpoolFile) -> None:
        for number, stream in enumerate(streams, 10):
            batch = Batch(
                number=number, stream=stream, first_id=number, last_id=number,
                first_sequence=number, last_sequence=number, records=1, bytes=5,
            )
            ledger.open_batch(file.connection, batch)
        file.connection.execute("UPDATE batch SET state = 'delivered', pruned = 1")

    spool.perform(fill)
    commits = 0
    for _ in range(40):
        if upkeep.has_step(file):
            spool.perform(upkeep.step)
            commits += 1
    rows = select(tmp_path / "memoir-0001.db", "SELECT count(*), sum(records) FROM batch")
    assert rows == [(201, 500)]
    assert commits < 12
    spool.close(5.0)


def test_an_idle_spool_writes_nothing(tmp_path: Path) -> None:
    """Each of 32 idle workers would else fsync once a second, for ever."""
    spool = open_spool(tmp_path)
    store(spool, "only")
    assert spool.file is not None
    before = spool.file.beats()
    threading.Event().wait(2.5)
    assert spool.file.beats() == before
    spool.close(5.0)


def test_a_record_that_the_full_disk_refused_is_not_said_to_be_stored(tmp_path: Path) -> None:
    """It had a number already; its ticket must not promise what is not there."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    make_faulty(spool, "COMMIT", disk_full())
    found = spool.append(draft("b"))
    assert "b" not in all_names_in(tmp_path)
    assert not (isinstance(found, Ticket) and (found.stored or found.wait(1.0)))


def test_numbers_that_the_full_disk_took_are_a_gap_and_the_stream_goes_on(tmp_path: Path) -> None:
    """Counted as disk_full, with the number that is missing."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    make_faulty(spool, "COMMIT", disk_full())
    spool.append(draft("b"))
    assert spool.flush(2.0)
    assert problems_of(tmp_path) == []
    assert store(spool, "c").sequence == 3
    gaps = select(
        tmp_path / "memoir-0001.db", "SELECT cause, first_sequence, last_sequence FROM gap"
    )
    assert gaps == [("refused:disk_full", 2, 2)]
    assert dict(totals_of(tmp_path).refused) == {"disk_full": 1}
    spool.close(5.0)
    assert problems_of(tmp_path) == []


def test_a_flush_on_a_full_disk_says_no_and_does_not_raise(tmp_path: Path) -> None:
    """``force_flush`` calls it from the application."""
    spool = open_spool(tmp_path)
    store(spool, "a")
    make_faulty(spool, "COMMIT", disk_full(), times=2)
    assert spool.flush(1.0) is False
    assert spool.flush(1.0) is True
    spool.close(5.0)


@pytest.mark.parametrize("error", [disk_full(), KeyboardInterrupt()], ids=["disk full", "torn"])
def test_a_batch_whose_first_attempt_could_not_be_committed_is_sent_and_settled(
    tmp_path: Path, error: BaseException
) -> None:
    """What the attempt noted in memory must be undone with its transaction."""
    spool, courier, _ = delivering(tmp_path, backoff_initial_s=0.01)
    spool.on_accept = lambda: None
    put(spool, "a")
    put(spool, "b")
    make_faulty(spool, "COMMIT", error)
    if isinstance(error, KeyboardInterrupt):
        source = next(iter(courier._planner.sources()))
        batch = courier._planner.next_batch(source, skip=None, hurry=True)
        assert batch is not None
        with pytest.raises(KeyboardInterrupt):
            courier._dispatcher._note_attempt(source, batch)
    spool.on_accept = courier.wake
    courier.wake()
    assert courier.wait_drained(5.0)
    stop(courier, spool)
    totals = totals_of(tmp_path)
    assert (totals.accepted, totals.delivered) == (2, 2)
    assert problems_of(tmp_path) == []


def test_a_gap_whose_event_was_refused_is_told_later(tmp_path: Path) -> None:
    """While the disk is low the event finds no room; it must not count as told."""
    spool, courier, sender = delivering(tmp_path, record_bytes_max=2000)
    put(spool, "a")
    assert spool._home.upkeep is not None
    spool.append(own_draft("large", size=3000))
    plain = spool._intake.reason_to_refuse
    spool._intake.reason_to_refuse = (  # type: ignore[method-assign]  # no room for a while
        lambda found, *, on_loop=False: plain(
            found._replace(payload=bytes(3000)), on_loop=on_loop
        )
    )
    assert spool.flush(2.0)
    waiting = threading.Event()
    for _ in range(3):
        courier.wake()
        waiting.wait(0.1)
    refused = sum(totals_of(tmp_path).refused.values())
    spool._intake.reason_to_refuse = plain  # type: ignore[method-assign]  # room again
    courier.wake()
    told = eventually(lambda: sender.copies(b"refused:too_large"), 3.0)
    stop(courier, spool)
    assert told
    assert refused == 1, "each try to tell counted as another refusal"
