"""Several lives in one file: how one ends, the next begins, and what a failover makes of them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.diagnostics import complaints
from otel_memoir.settings import Settings
from otel_memoir.spool import Spool, State, ledger
from otel_memoir.spool.commit import Chore
from otel_memoir.spool.directory import Slot, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.recovery import open_held
from spool_helpers import (
    disk_full,
    io_error,
    make_faulty,
    make_stamper,
    own_draft,
    problems_of,
    put,
    select,
    totals_of,
)
from test_spool_corners import QUICK, deliver_all
from test_spool_faults import Asking


class Lived:
    """A spool whose clock goes back when it is told to, and whose writer is driven by hand."""

    def __init__(self, directory: Path, **given: Any) -> None:
        self.epoch = 0
        self.spool = Spool(
            Settings(**{"disk_free_bytes_min": 0, "emit_timeout_s": 3.0, **QUICK, **given}),
            directory=directory, make_stamper=make_stamper, clock_epoch=lambda: self.epoch,
        )
        self.spool._writer.start = lambda: None  # type: ignore[method-assign]  # driven by hand

    @property
    def file(self) -> SpoolFile:
        """The file that it writes."""
        assert self.spool.file is not None
        return self.spool.file

    def go_back(self) -> None:
        """Let the clock go back, and the writer see it."""
        self.epoch += 1
        self.spool._writer._write_once()


def copies(directory: Path, *names: str) -> list[int]:
    """How often each record arrives, once all that lies in a directory is delivered."""
    taker = deliver_all(directory)
    return [taker.copies(f"<{name}>".encode()) for name in names]


def test_unsynced_rows_of_two_lives_count_once_after_a_failover(tmp_path: Path) -> None:
    """Those of the older one lie under the other's, and were not looked for there."""
    lived = Lived(tmp_path, durability="process")
    put(lived.spool, "a")
    lived.spool._chores.sync = lambda **_: None  # type: ignore[method-assign]  # not yet
    lived.go_back()
    put(lived.spool, "b")
    lived.spool.leave_file(io_error())
    lived.spool.close(5.0)
    assert copies(tmp_path, "a", "b") == [1, 1]
    assert totals_of(tmp_path).accepted == 3
    assert problems_of(tmp_path) == []


def test_a_file_that_is_left_too_goes_on_listing_what_it_took_over(tmp_path: Path) -> None:
    """Else the rows in the first of three files counted again, if the second was opened before."""
    lived = Lived(tmp_path, durability="process")
    put(lived.spool, "a")
    first = lived.spool.life
    assert first is not None
    lived.spool.leave_file(io_error())
    lived.spool.flush(5.0)
    with lived.spool._commits.append_lock:  # it came between the failing commit and its end
        late = own_draft("late")
        lived.spool._intake._add_locked(first, late, late.payload, False)
    lived.spool._commits.commit_queued(1.0)
    lived.spool.leave_file(io_error())
    assert lived.file.name == "memoir-0003"
    lived.spool.close(5.0)
    lock = try_lock(Slot(tmp_path, 2))
    assert lock is not None
    second = open_held(lock)
    second.end_lost_streams(1)
    second.close()
    assert copies(tmp_path, "a", "late") == [1, 1]
    assert problems_of(tmp_path) == []


# -- a clock that goes back -----------------------------------------------------


def test_a_life_that_could_not_begin_begins_later(tmp_path: Path) -> None:
    """A full disk had said no once, and the stream went on far ahead of its clock for good."""
    lived = Lived(tmp_path)
    put(lived.spool, "a")
    make_faulty(lived.spool, "INSERT INTO stream", disk_full())
    lived.go_back()
    lived.spool._writer._write_once()
    assert lived.spool.life is not None
    assert lived.spool.life.stream.epoch == 2
    lived.spool.close(5.0)


@pytest.mark.parametrize("error", [disk_full(), RuntimeError("the clock is the application's own")])
def test_what_waits_in_memory_is_stored_though_no_life_can_begin(
    tmp_path: Path, error: Exception
) -> None:
    """Each round of the writer ended there, before its commit."""
    lived = Lived(tmp_path, durability="batch")
    ticket = put(lived.spool, "a")
    make_faulty(lived.spool, "INSERT INTO stream", error)
    lived.go_back()
    assert ticket.stored
    lived.spool.close(5.0)


def test_a_failover_while_a_life_begins_ends_nobody_elses(tmp_path: Path) -> None:
    """The number of the old life was that of the moved rows in the new file, which were then
    listed no more, and arrived from both."""
    before = Lived(tmp_path)
    put(before.spool, "z")
    before.spool.close(5.0)
    lived = Lived(tmp_path, durability="process")
    put(lived.spool, "a")
    assert lived.spool.life is not None
    assert lived.spool.life.number == 2
    begin = lived.file.begin_stream

    def begin_and_break(*given: Any, **named: Any) -> Any:
        begun = begin(*given, **named)
        make_faulty(lived.spool, "UPDATE courier", io_error())
        committer = lived.spool._home.committer
        assert committer is not None
        committer.chores.append(Chore(lambda _: None))
        return begun

    lived.file.begin_stream = begin_and_break  # type: ignore[method-assign]  # as a disk would
    lived.go_back()
    assert lived.file.name == "memoir-0002"
    lived.spool.close(5.0)
    assert copies(tmp_path, "z", "a") == [1, 1]
    assert problems_of(tmp_path) == []


def test_what_is_settled_while_a_life_begins_is_counted_once(tmp_path: Path) -> None:
    """It was on disk already when the room was counted anew, and taken off once more."""
    lived = Lived(tmp_path)
    put(lived.spool, "a")
    end = lived.spool.close_batch()

    def settle(file: SpoolFile) -> int:
        batch = ledger.next_unledgered(file.connection, file.ledgered_id, end, 1)
        assert batch is not None
        ledger.open_batch(file.connection, batch)
        file.ledgered_id = batch.last_id
        ledger.settle(file.connection, batch, State.DELIVERED, unix_ns=1)
        return batch.bytes

    size = lived.spool.perform(settle)
    lived.go_back()
    lived.spool.settled(size, delivered=True)
    upkeep = lived.spool._home.upkeep
    assert upkeep is not None
    assert upkeep._waiting_bytes == 0
    lived.spool.close(5.0)


def test_numbers_stay_reserved_in_the_next_life(tmp_path: Path) -> None:
    """Else a crash leaves a gap unnamed: on an event loop records wait in memory."""

    async def emit(name: str) -> None:
        lived.spool.append(own_draft(name))

    lived = Lived(tmp_path)
    asyncio.run(emit("a"))
    lived.spool._writer._write_once()
    lived.go_back()
    asyncio.run(emit("b"))
    life = lived.spool.life
    assert life is not None
    assert life.stream.epoch == 2
    assert life.reserved >= life.next_sequence - 1
    lived.spool.close(5.0)


def test_nothing_is_said_under_the_commit_lock_while_a_life_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in any commit: a handler of the application may wait for that lock."""
    monkeypatch.setattr(complaints, "_said", {})
    lived = Lived(tmp_path, durability="batch")
    put(lived.spool, "a")
    lived.spool._writer._write_once()
    put(lived.spool, "b")
    handler = Asking(lived.spool)
    logger = logging.getLogger("otel_memoir")
    logger.addHandler(handler)
    try:
        make_faulty(lived.spool, "INSERT INTO record", io_error())
        lived.go_back()
    finally:
        logger.removeHandler(handler)
    lived.spool.close(5.0)
    assert handler.answers
    assert all(handler.answers)


def test_a_life_that_ends_on_a_full_disk_is_not_said_to_have_died(tmp_path: Path) -> None:
    """A gap of up to 16,383 numbers was told, though each had been given an answer."""
    lived = Lived(tmp_path, durability="batch")
    put(lived.spool, "a")
    make_faulty(lived.spool, "INSERT INTO record", disk_full())
    lived.go_back()
    put(lived.spool, "b")
    lived.spool.close(5.0)
    ended = select(tmp_path / "memoir-0001.db", "SELECT ended, sequence FROM stream")
    assert ended == [("clean", 1), ("clean", 1)]


def test_a_life_begins_after_the_times_that_were_still_in_memory(tmp_path: Path) -> None:
    """The clock went back by less than lives may overlap."""
    lived = Lived(tmp_path, durability="batch")
    put(lived.spool, "a")
    waits = lived.spool._commits.first_queued()
    assert waits is not None
    lived.go_back()
    assert lived.spool.life is not None
    assert lived.spool.life.stream.after_unix_ns == waits.unix_ns
    lived.spool.close(5.0)
