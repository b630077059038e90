"""The spool of one process: the front of the room.

``append`` is the way in (``intake``). What the courier asks and does stands below it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import MemoirError, SpoolError
from otel_memoir.settings import Settings
from otel_memoir.spool import forks, ledger
from otel_memoir.spool.admission import Admission
from otel_memoir.spool.chores import RIDE_S, Chores
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.group_commit import GroupCommit
from otel_memoir.spool.home import Home
from otel_memoir.spool.intake import Intake
from otel_memoir.spool.model import Draft, Entry, Life, MakeStamper, Refused
from otel_memoir.spool.open_batch import OpenBatch
from otel_memoir.spool.ticket import Ticket
from otel_memoir.spool.upkeep import Upkeep
from otel_memoir.spool.vitals import CommitTimes, Vitals, vitals_of
from otel_memoir.spool.writer import Writer

T = TypeVar("T")

_QUIESCE_S = 5.0
_QUIESCE_NESTED_S = 0.25
_LOOK_S = 0.25


class Spool:
    """One process's way to disk. Constructing it opens and starts nothing.

    Args:
        settings: The settings.

        directory: Where the slots are.

        make_stamper: Gives the stamper of each new stream.

        wall_ns: The wall clock, for times on disk.

        monotonic_s: The clock for durations.

        clock_epoch: Rises when the clock of the stamps had to go back: then the stream
            ends, and the next one of the process begins.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        make_stamper: MakeStamper,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
        clock_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self._make_stamper = make_stamper
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._clock_epoch = clock_epoch
        self.on_accept: Callable[[], None] = lambda: None
        self.on_forget: Callable[[], None] = lambda: None
        self._start_anew()
        forks.watch(self)

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self.owner = secrets.token_hex(8)
        self._open_lock = threading.RLock()
        # Held while a thread of ours reads; taken before the commit lock.
        self.reading = threading.RLock()
        self._commits: GroupCommit[Entry] = GroupCommit(
            self._commit, after=complaints.let_out, monotonic_s=self._monotonic_s
        )
        self._batch = OpenBatch(
            records_max=self.settings.request_records_max, bytes_max=self.settings.request_bytes_max
        )
        self._home = Home(
            self.settings, directory=self.directory, make_stamper=self._make_stamper,
            commits=self._commits, batch=self._batch, wall_ns=self._wall_ns,
            monotonic_s=self._monotonic_s, clock_epoch=self._clock_epoch, owner=self.owner,
        )
        self._chores = Chores(
            self._home, self._commits, self.settings, monotonic_s=self._monotonic_s
        )
        self._admission = Admission(
            self._home, self._chores, self.settings, end_of_closed=self.end_of_closed
        )
        self._intake = Intake(
            self._home, self._commits, self._batch, self._admission, self.settings,
            open_home=self._open, start_writer=self._start_writer, ring=self._ring,
            on_accept=self._accepted,
        )
        self._writer = Writer(
            self._home, self._chores, self._commits, self._intake.nesting, self.settings,
            take_early=self._intake.take_early, make_room=self._admission.make_room,
            leave_file=self.leave_file, on_written=self._accepted,
        )
        self._last_append_s = float("-inf")
        self._commit_times = CommitTimes()

    def _start_writer(self) -> None:
        self._writer.start()

    def _ring(self) -> None:
        self._writer.alarm.ring()

    def _accepted(self) -> None:
        self.on_accept()

    def use(self, settings: Settings) -> None:
        """Go on with other settings from the next record on; what is not live stays as it is."""
        self.settings = settings
        self._batch.limit(settings.request_records_max, settings.request_bytes_max)
        for part in (self._home, self._chores, self._admission, self._intake, self._writer):
            part.use(settings)

    def limit_requests(self, size: int) -> None:
        """Batch at most ``size`` payload bytes from now on, since no more are taken."""
        self._batch.limit(self.settings.request_records_max, size)

    def forget(self) -> None:
        """In a fork child: let go of all that belongs to the parent."""
        self._home.abandon()
        self._start_anew()
        self.on_forget()

    def quiesce(self) -> None:
        """Before a fork: see that none of our threads is inside SQLite.

        SQLite has locks of the whole process; one that another thread holds at the fork
        is held for ever in the child, whose first open then hangs (seen in 6 of 8 runs).
        """
        # A handler that forks inside an emit may hold what the one who reads is waiting for.
        is_nested = threading.get_ident() in self._intake.nesting.busy
        patience_s = _QUIESCE_NESTED_S if is_nested else _QUIESCE_S
        self._open_lock.acquire(timeout=patience_s)
        self.reading.acquire(timeout=patience_s)
        self._commits.hold(patience_s)

    def resume(self) -> None:
        """After a fork, in the parent: go on."""
        self._commits.let_go()
        for lock in (self.reading, self._open_lock):
            with contextlib.suppress(RuntimeError):
                lock.release()

    def check_pid(self) -> None:
        """Start anew in a fork child whose fork hooks were not called (uWSGI)."""
        if self._pid != os.getpid():
            self.forget()

    # -- the way in -----------------------------------------------------------

    def append(self, draft: Draft) -> Ticket | Refused | None:
        """Accept a record, or say why not. Never raises an ``Exception``.

        In ``power`` and ``process`` it is committed on return (and fsynced, in
        ``power``). In ``batch``, and on a thread that runs an event loop, it is in
        memory, and the ticket can be waited for.

        Returns:
            A ticket; or the reason of the refusal; or ``None`` if this emit interrupted
            another one of the same thread, which stores the record before it returns, or
            if it came on an event loop before the file was open.
        """
        self.check_pid()
        return self._intake.append(draft)

    def uninterrupted(self) -> contextlib.AbstractContextManager[None]:
        """Keep emits that interrupt a block on its own thread out of its locks."""
        return self._intake.nesting.uninterrupted()

    def vitals(self) -> Vitals:
        """How the way to disk is. Reads no file and waits for nobody."""
        now_s = self._monotonic_s()
        return vitals_of(self._home, self._commit_times, late=self._intake.late, now_s=now_s)

    @property
    def refused_unwritten(self) -> Mapping[str, int]:
        """Refusals that no file knows of, by reason: they came before it or after the end."""
        return self._admission.unwritten

    @property
    def has_evicted(self) -> bool:
        """Whether waiting records were given up on, to make room."""
        return self._admission.has_evicted

    # -- opening --------------------------------------------------------------

    def open(self) -> None:
        """Open the file now instead of at the first record, to deliver what others left."""
        self._open()

    def _open(self) -> Life | None:
        if self._intake.is_closed:
            return None
        complaints.hold_back()
        try:
            with self._open_lock, unobserved():
                if self._home.life is None and not self._intake.is_closed:
                    self._home.move_in()
                    self._admission.write_refused()
                    self._writer.start()
                return self._home.life
        finally:
            complaints.let_out()

    def leave_file(self, error: Exception) -> None:
        """Go on in a new file: the courier found that this one is broken."""

        def give_up(_: SpoolFile) -> None:
            raise error

        with contextlib.suppress(SpoolError):
            self.perform(give_up)

    # -- commits --------------------------------------------------------------

    def _commit(self, entries: Sequence[Entry]) -> bool:
        committer = self._home.committer
        if committer is None:
            return not entries
        complaints.hold_back()
        is_work = bool(entries or committer.chores)
        self._commit_times.begins(self._monotonic_s())
        try:
            done = committer(entries)
        finally:
            counts = is_work and not committer.needs_sync
            self._commit_times.ends(self._monotonic_s(), counts=counts)
        upkeep = self._home.upkeep
        if done and upkeep is not None:
            upkeep.appended(committer.take_stored_again())
            if entries:
                self._committed(entries, upkeep, committer.reserve)
        return done

    def _committed(self, entries: Sequence[Entry], upkeep: Upkeep, reserve: int) -> None:
        life = entries[-1].life
        accepted = sum(e.size for e in entries if e.life.refusal(e.sequence) is None)
        if accepted:
            life.reserved = max(life.reserved, life.stored + reserve)
        upkeep.appended(accepted)
        self._intake.committed(sum(e.size for e in entries))
        self._last_append_s = self._monotonic_s()

    def perform(self, work: Callable[[SpoolFile], T]) -> T:
        """Run the courier's work in a commit that is fsynced when this returns.

        It rides in an emitter's commit if one comes within 50 ms of the last.

        Raises:
            SpoolError: It could not be committed; nothing of it happened.

            Exception: What ``work`` raised; nothing of it happened.
        """
        recent = self._monotonic_s() - self._last_append_s < RIDE_S
        busy = recent and self.settings.durability != "batch"
        with self.uninterrupted():
            return self._chores.perform(work, ride=busy)

    def flush(self, timeout: float) -> bool:
        """Commit and fsync all that was appended; return whether it was done in time."""
        self.check_pid()
        with self.uninterrupted():
            self._intake.take_early()
        if self._home.life is None:
            return True
        deadline_s = self._monotonic_s() + timeout
        try:
            with self.uninterrupted():
                self._chores.sync(timeout=timeout)
        except (MemoirError, sqlite3.Error):
            return False
        return self._monotonic_s() <= deadline_s

    # -- for the courier ------------------------------------------------------

    @property
    def is_on_disk(self) -> bool:
        """Whether records go to a file, and not into memory."""
        return self._home.is_on_disk

    @property
    def file(self) -> SpoolFile | None:
        """The open file; ``None`` before the first record and after the end."""
        return self._home.file

    @property
    def life(self) -> Life | None:
        """The stream that is being written, if any."""
        return self._home.life

    def close_batch(self) -> int:
        """End the open batch, so that it can be sent; no commit is needed for it.

        Returns:
            As ``end_of_closed``.
        """
        with self.uninterrupted():
            with self._commits.append_lock:
                self._batch.close()
            self._commits.commit_queued(RIDE_S)
        return self.end_of_closed()

    def end_of_closed(self) -> int:
        """The number from which on batches may still gain rows; earlier ones are committed."""
        with self.uninterrupted():
            # In this order: a batch that fills up in between still has rows in the queue.
            number, left = self._batch.number, self._commits.first_queued()
        return number if left is None else min(number, left.batch)

    def would_refuse(self, draft: Draft) -> bool:
        """Whether a record would be refused just now."""
        return self._intake.reason_to_refuse(draft) is not None

    def has_work(self) -> bool:
        """Whether anything waits to be sent or told, be it in memory or on disk.

        While somebody reads for longer than a moment, it is taken to: callers have deadlines.
        """
        with self.uninterrupted():
            if not self.reading.acquire(timeout=_LOOK_S):
                return True
            try:
                return self._has_work()
            finally:
                self.reading.release()

    def _has_work(self) -> bool:
        file = self.file
        if file is None:
            return self._intake.has_early
        queued = self._intake.has_early or self._commits.first_queued() is not None
        if file.lock is not None:
            return queued or ledger.has_work(file.reader, file.ledgered_id, owner=self.owner)
        return queued or self._chores.perform(
            lambda mine: ledger.has_work(mine.connection, mine.ledgered_id, owner=self.owner)
        )

    @property
    def open_batch(self) -> tuple[int, int]:
        """The batch that is being appended to: its number and how many records it has."""
        return self._batch.number, self._batch.records

    def batch_numbers(self, count: int) -> range:
        """Take numbers for batches that are not appended to (halves)."""
        with self.uninterrupted(), self._commits.append_lock:
            return self._batch.numbers(count)

    def settled(self, size: int, *, delivered: bool) -> None:
        """Take note that waiting bytes were settled."""
        if self._home.upkeep is not None:
            self._home.upkeep.settled(size, delivered=delivered)

    # -- the end --------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Commit what is queued, end the stream, give the slot back. Idempotent.

        Takes little longer than ``timeout`` seconds, whatever hangs. Records that are
        emitted later are refused and counted in memory only.
        """
        self.check_pid()
        self._intake.close()
        committer = self._home.committer
        if committer is None:
            return
        deadline_s = self._monotonic_s() + timeout
        if self._commits.first_queued() or committer.needs_sync or committer.has_refusals:
            self.flush(timeout)
        self._writer.stop(max(_LOOK_S, deadline_s - self._monotonic_s()))
        # A courier that did not stop in time may be reading: then nothing is closed.
        reading = self.reading.acquire(timeout=max(_LOOK_S, deadline_s - self._monotonic_s()))
        rest_s = max(_LOOK_S, deadline_s - self._monotonic_s())
        try:
            with self.uninterrupted(), self._commits.committing(rest_s) as held:
                if held and reading:
                    self._commit(())  # what was refused since the flush
                    self._home.move_out()
        finally:
            if reading:
                self.reading.release()
            complaints.let_out()
