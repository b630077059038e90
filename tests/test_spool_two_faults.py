"""A disk that fails twice: a checkpoint after a commit, a commit after a failed one."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.spool import Spool, Ticket, commit, file
from otel_memoir.spool.commit import Committer
from spool_helpers import (
    disk_full,
    draft,
    io_error,
    is_refused,
    make_faulty,
    names_in,
    open_spool,
    problems_of,
    select,
    store,
    totals_of,
)


def test_a_checkpoint_that_has_no_room_refuses_nothing_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit before it had happened; its records were called refused, and delivered."""
    monkeypatch.setattr(file, "_LOG_BYTES_MAX", 0)
    monkeypatch.setattr(commit, "UNSYNCED_BYTES_MAX", 0)
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    make_faulty(spool, "PRAGMA wal_checkpoint", disk_full())
    assert isinstance(spool.append(draft("second")), Ticket)
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {}
    assert problems_of(tmp_path) == []


def test_an_fsync_that_fails_after_the_disk_was_full_is_noticed(tmp_path: Path) -> None:
    """The next one would succeed without the pages that are gone."""
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    make_faulty(spool, "COMMIT", io_error())
    make_faulty(spool, "COMMIT", disk_full())
    spool.flush(1.0)
    assert spool.file is not None
    assert spool.file.name == "memoir-0002"
    spool.close(5.0)
    assert names_in(tmp_path) == {"first"}
    assert problems_of(tmp_path) == []


def test_a_log_that_cannot_be_fsynced_to_give_room_back_is_noticed(tmp_path: Path) -> None:
    """As above: what was committed since the writer's last fsync is in no file for sure."""
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    upkeep = spool._home.upkeep
    assert upkeep is not None
    spool._writer.stop(5.0)
    make_faulty(spool, "PRAGMA wal_checkpoint(TRUNCATE)", io_error())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "refresh", lambda: None)
        patch.setattr(upkeep, "disk_is_low", True)
        with contextlib.suppress(sqlite3.Error):
            spool._writer._keep_up(upkeep)
    assert spool.file is not None
    assert spool.file.name == "memoir-0002"
    spool.close(5.0)
    assert names_in(tmp_path) == {"first"}


def test_a_new_file_whose_first_commit_fails_too_lets_nothing_reach_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been stored was looked for in a stream that the new file does not have."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    succeed = Committer._succeed

    def succeed_and_break(committer: Committer, *given: Any) -> None:
        succeed(committer, *given)
        make_faulty(spool, "COMMIT", disk_full())

    monkeypatch.setattr(Committer, "_succeed", succeed_and_break)
    make_faulty(spool, "COMMIT", io_error())
    spool.append(draft("second"))
    store(spool, "third")
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {"broken": 1}
    assert problems_of(tmp_path) == []


def test_an_eviction_that_takes_longer_than_the_emitter_waits_counts_once_it_happened(
    tmp_path: Path,
) -> None:
    """Its bytes were taken back as it was given up on, and then it happened."""
    spool = open_spool(
        tmp_path, spool_bytes_max=2**16, when_full="evict", request_records_max=1,
        emit_timeout_s=0.2,
    )
    for number in range(3):
        store(spool, f"r{number}", size=15_000)
    spool._writer.stop(5.0)
    upkeep, committing = spool._home.upkeep, Held(spool)
    assert upkeep is not None
    assert is_refused(spool.append(draft("big", size=15_000)), "full")
    committing.let_go()
    (waiting,) = select(
        tmp_path / "memoir-0001.db", "SELECT sum(size) FROM record WHERE id > "
        "(SELECT coalesce(max(last_id), 0) FROM batch)",
    )
    assert upkeep._waiting_bytes == waiting[0]
    assert totals_of(tmp_path).evicted >= 1
    assert spool.has_evicted
    spool.close(5.0)


class Held:
    """Another thread that takes up the next chore, and whose commit hangs until ``let_go``."""

    def __init__(self, spool: Spool) -> None:
        assert spool.file is not None
        self._real, self._spool = spool.file.connection, spool
        self._hangs, self._over = threading.Event(), threading.Event()
        spool.file.connection = self  # type: ignore[assignment]  # as a slow disk's
        self._thread = threading.Thread(target=lambda: spool._commits.commit_queued(20.0))
        self._wait, spool._chores._commit = spool._chores._commit, self.take_up  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, *given: Any) -> Any:
        """Hang in a COMMIT of the other thread."""
        if sql == "COMMIT" and threading.current_thread() is self._thread:
            self._hangs.set()
            self._over.wait(20.0)
        return self._real.execute(sql, *given)

    def take_up(self, chore: Any, timeout: float) -> None:
        """Let the other thread begin; then wait as the one who asked does."""
        self._thread.start()
        assert self._hangs.wait(20.0)
        self._wait(chore, timeout)

    def let_go(self) -> None:
        """Let the commit end."""
        self._over.set()
        self._thread.join(20.0)
        self._spool._chores._commit = self._wait  # type: ignore[method-assign]


def test_what_the_left_file_has_is_not_refused_though_the_next_one_cannot_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that `emit` had accepted were refused, and delivered all the same."""
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    store(spool, "second")
    succeed = Committer._succeed

    def succeed_and_break(committer: Committer, *given: Any) -> None:
        succeed(committer, *given)
        make_faulty(spool, "COMMIT", disk_full())

    monkeypatch.setattr(Committer, "_succeed", succeed_and_break)
    make_faulty(spool, "COMMIT", io_error())
    assert is_refused(spool.append(draft("third")), "broken")
    store(spool, "fourth")
    spool.close(5.0)
    assert names_in(tmp_path) == {"first", "second", "fourth"}
    totals = totals_of(tmp_path)
    assert (totals.accepted, dict(totals.refused), totals.unaccounted) == (3, {"broken": 1}, 0)
    assert problems_of(tmp_path) == []


def test_a_commit_that_is_torn_as_it_is_noted_is_stored_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records stood twice among those that no fsync covers, and twice in the next file."""
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    noted = Committer._stored

    def note_and_tear(committer: Committer, *given: Any, **named: Any) -> None:
        noted(committer, *given, **named)
        monkeypatch.setattr(Committer, "_stored", noted)
        raise KeyboardInterrupt

    monkeypatch.setattr(Committer, "_stored", note_and_tear)
    with pytest.raises(KeyboardInterrupt):
        spool.append(draft("second"))
    make_faulty(spool, "COMMIT", io_error())
    spool.flush(1.0)
    spool.close(5.0)
    assert select(tmp_path / "memoir-0002.db", "SELECT sequence FROM record") == [(1,), (2,)]
    assert problems_of(tmp_path) == []


def test_what_a_disk_refuses_that_is_full_for_long_is_one_gap(tmp_path: Path) -> None:
    """Each commit wrote all the gaps before it, and each emit looked through them."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    make_faulty(spool, "COMMIT", disk_full(), times=100)
    for number in range(100):
        assert is_refused(spool.append(draft(f"r{number}")), "disk_full")
    last = store(spool, "last")
    assert len(last.life.refused) == 1
    spool.close(5.0)
    gaps = select(tmp_path / "memoir-0001.db", "SELECT records, first_sequence FROM gap")
    assert gaps == [(100, 2)]
    assert problems_of(tmp_path) == []
