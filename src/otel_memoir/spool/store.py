"""The spool of one process: what ``emit`` calls and what the courier asks.

``append`` is the way in. It never raises and never lets a record vanish: it
returns a ticket for a record that has its sequence number, or the reason why it
was refused, which is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import MemoirError, SpoolError
from otel_memoir.settings import Settings
from otel_memoir.spool import ledger
from otel_memoir.spool.alarm import Alarm
from otel_memoir.spool.commit import Chore, Committer, Successor
from otel_memoir.spool.directory import prepare_directory
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.group_commit import Group, GroupCommit
from otel_memoir.spool.model import (
    AFTER_SHUTDOWN,
    BROKEN,
    BUSY,
    DISK_FULL,
    FULL,
    TOO_LARGE,
    Draft,
    Entry,
    Life,
    MakeStamper,
    Refused,
)
from otel_memoir.spool.nesting import Nesting
from otel_memoir.spool.open_batch import OpenBatch
from otel_memoir.spool.recovery import LeftFile, leave, open_slot
from otel_memoir.spool.upkeep import Upkeep

T = TypeVar("T")

WARN = 13
"""OpenTelemetry's severity number of WARN: from here on a record may use the last fifth."""

_RESERVE = 2**14
_RIDE_S = 0.05
_QUIESCE_S = 5.0
_FILES_TRIED = 3
_UPKEEP_INTERVAL_S = 1.0
_STAMP_BYTES = 200


class Ticket:
    """A record that has its sequence number; ``wait`` until it is on disk."""

    __slots__ = ("_group", "_spool", "life", "sequence")

    def __init__(self, spool: Spool, group: Group[Entry], life: Life, sequence: int) -> None:
        self._spool = spool
        self._group = group
        self.life = life
        self.sequence = sequence

    @property
    def stored(self) -> bool:
        """Whether the record is on disk, as durable as the settings say."""
        return self._group.done and self.refusal is None and self._spool.is_on_disk

    @property
    def refusal(self) -> Refused | None:
        """Why the record's commit came to nothing, if it did."""
        for first, last, reason in self.life.refused:
            if first <= self.sequence <= last:
                return reason
        return None

    def wait(self, timeout: float) -> bool:
        """Wait until the record is committed; return whether it was, in ``timeout`` seconds."""
        self._spool.wait_committed(self._group, timeout)
        return self.stored


_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for spool in list(_spools):
        spool.forget()


def _quiesce_before_fork() -> None:
    for spool in list(_spools):
        spool.quiesce()


def _resume_after_fork() -> None:
    for spool in list(_spools):
        spool.resume()


os.register_at_fork(
    before=_quiesce_before_fork,
    after_in_parent=_resume_after_fork,
    after_in_child=_forget_after_fork,
)


class Spool:
    """One process's way to disk. Constructing it opens and starts nothing.

    Args:
        settings: The settings.

        directory: Where the slots are.

        make_stamper: Gives the stamper of each new stream.

        wall_ns: The wall clock, for times on disk.

        monotonic_s: The clock for durations.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        make_stamper: MakeStamper,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self._make_stamper = make_stamper
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._closed = False
        self.refused_unwritten: Counter[str] = Counter()
        self.on_accept: Callable[[], None] = _nothing
        self.on_forget: Callable[[], None] = _nothing
        self._start_anew()
        _spools.add(self)

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._open_lock = threading.RLock()
        # Held while a thread of ours reads; taken before the commit lock.
        self.reading = threading.RLock()
        self._life: Life | None = None
        self._committer: Committer | None = None
        self._upkeep: Upkeep | None = None
        self._commits: GroupCommit[Entry] = GroupCommit(
            self._commit, monotonic_s=self._monotonic_s
        )
        self._alarm = Alarm()
        self._nesting: Nesting[Draft] = Nesting(self._append_all, self._alarm.ring)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._avoid: frozenset[int] = frozenset()
        self._left: list[LeftFile] = []
        self._batch = OpenBatch(
            records_max=self.settings.request_records_max, bytes_max=self.settings.request_bytes_max
        )
        self._queued_bytes = 0
        self._last_append_s = float("-inf")
        self.late = 0

    def forget(self) -> None:
        """In a fork child: let go of all that belongs to the parent."""
        committer = self._committer
        if committer is not None:
            committer.file.abandon()
        for left in self._left:
            left.abandon()
        self._start_anew()
        self.on_forget()

    def quiesce(self) -> None:
        """Before a fork: see that none of our threads is inside SQLite.

        SQLite has locks of the whole process; one that another thread holds at the fork
        is held for ever in the child, whose first open then hangs (seen in 6 of 8 runs).
        """
        self._open_lock.acquire(timeout=_QUIESCE_S)
        self.reading.acquire(timeout=_QUIESCE_S)
        self._commits.hold(_QUIESCE_S)

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
            A ticket; or the reason of the refusal; or ``None`` if this emit
            interrupted another one of the same thread, which stores the record
            before it returns.
        """
        self.check_pid()
        nesting, me = self._nesting, threading.get_ident()
        if me in nesting.busy:
            nesting.keep(me, draft)
            return None
        try:
            nesting.busy.add(me)
            return self._append(draft)
        finally:
            # Twice, since an exception from outside can strike in between.
            try:
                nesting.leave(me)
            finally:
                nesting.busy.discard(me)

    def uninterrupted(self) -> contextlib.AbstractContextManager[None]:
        """Keep emits that interrupt a block on its own thread out of its locks."""
        return self._nesting.uninterrupted()

    def wait_committed(self, group: Group[Entry], timeout: float) -> bool:
        """Wait until a group is committed; return whether it was, in ``timeout`` seconds."""
        with self.uninterrupted():
            return self._commits.wait(group, False, timeout)

    def _append(self, draft: Draft) -> Ticket | Refused:
        on_loop = _on_event_loop()
        added = self._enqueue(draft, on_loop)
        if isinstance(added, Refused):
            return added
        ticket, leads = added
        if self._hands_over(on_loop):
            return self._hand_over(ticket, leads, on_loop)
        if not self._commits.wait(ticket._group, leads, self.settings.emit_timeout_s):
            self._is_late()
        self.on_accept()
        return ticket.refusal or ticket

    def _append_all(self, drafts: deque[Draft]) -> None:
        """Accept what interrupted an emit, all with one wait for the disk.

        A draft is removed once it is in the queue: torn in between, it is taken twice,
        under one uid, and not lost.
        """
        on_loop = _on_event_loop()
        last: Ticket | None = None
        while drafts:
            added = self._enqueue(drafts[0], on_loop)
            drafts.popleft()
            last = last if isinstance(added, Refused) else added[0]
        if last is None:
            return
        if self._hands_over(on_loop):
            self._alarm.ring()
        elif not self._commits.wait(last._group, True, self.settings.emit_timeout_s):
            self._is_late()
        self.on_accept()

    def _hands_over(self, on_loop: bool) -> bool:
        return self.settings.durability == "batch" or (
            on_loop and self.settings.on_event_loop == "handover"
        )

    def _enqueue(self, draft: Draft, on_loop: bool) -> tuple[Ticket, bool] | Refused:
        """Give a record its number and its place in the queue, or say why not."""
        life = self._life or self._open()
        reason = self._reason_to_refuse(draft, on_loop)
        if reason is not None:
            return self._refuse(reason)
        assert life is not None
        packed = len(draft.payload) > self.settings.compress_above_bytes
        payload = zlib.compress(draft.payload, 1) if packed else draft.payload
        committer = self._committer
        if committer is not None and not committer.reserve and self._hands_over(on_loop):
            committer.reserve = _RESERVE
        with self._commits.append_lock:
            # The end may have come since the reason was asked for.
            added = None if self._closed else self._add_locked(draft, payload, packed)
        return added or self._refuse(AFTER_SHUTDOWN)

    def _hand_over(self, ticket: Ticket, leads: bool, on_loop: bool) -> Ticket:
        if leads:
            self._alarm.ring()
        crowded = self._queued_bytes > self.settings.memory_bytes_max
        if not on_loop and (crowded or ticket.sequence > ticket.life.reserved):
            self._commits.wait(ticket._group, False, self.settings.emit_timeout_s)
        return ticket

    def _add_locked(self, draft: Draft, payload: bytes, packed: bool) -> tuple[Ticket, bool]:
        life = self._life
        assert life is not None
        sequence = life.next_sequence
        suffix, unix_ns = life.stamp(draft, sequence)
        size = len(draft.payload) + len(suffix)
        entry = Entry(
            life, sequence, self._batch.take(size), draft.envelope, draft.severity, unix_ns, size,
            packed, payload + suffix,
        )
        life.next_sequence = sequence + 1
        self._queued_bytes += size
        group, leads = self._commits.add_locked(entry)
        return Ticket(self, group, life, sequence), leads

    def _reason_to_refuse(self, draft: Draft, on_loop: bool) -> Refused | None:
        upkeep = self._upkeep
        if self._closed:
            return AFTER_SHUTDOWN
        if upkeep is None:
            return BROKEN
        size = len(draft.payload) + _STAMP_BYTES
        if size > self.settings.record_bytes_max:
            return TOO_LARGE
        if on_loop and self._queued_bytes + size > 2 * self.settings.memory_bytes_max:
            return BUSY
        if upkeep.disk_is_low:
            return DISK_FULL
        if upkeep.has_room(self._queued_bytes + size, urgent=draft.severity >= WARN):
            return None
        if self.settings.when_full == "evict" and self._evict(size, draft.severity >= WARN):
            return None
        return FULL

    def _refuse(self, reason: Refused) -> Refused:
        if self._committer is not None:
            self._committer.refused[reason] += 1
        else:
            self.refused_unwritten[reason] += 1
        complaints.say(
            f"refused {reason}",
            f"a record was refused ({reason}); it is counted and becomes a gap. "
            "`otel-memoir status` shows how many.",
        )
        return reason

    def _is_late(self) -> None:
        self.late += 1
        complaints.say(
            "late",
            f"the disk under {self.directory} did not answer in "
            f"{self.settings.emit_timeout_s:g} s; records wait in memory",
        )

    def _evict(self, size: int, urgent: bool) -> bool:
        """Evict the oldest batches until there is room; return whether there is."""
        upkeep = self._upkeep
        if upkeep is None or not upkeep.can_ever_fit(size, urgent=urgent):
            return False

        def oldest(file: SpoolFile) -> bool:
            while not upkeep.has_room(self._queued_bytes + size, urgent=urgent):
                if not upkeep.evict_oldest(file, self._batch.number):
                    return False
            return True

        try:
            return self._perform(oldest, ride=False)
        except (MemoirError, sqlite3.Error):
            return False

    # -- opening --------------------------------------------------------------

    def open(self) -> None:
        """Open the file now instead of at the first record, to deliver what others left."""
        self._open()

    def _open(self) -> Life | None:
        if self._closed:
            return None
        with self._open_lock, unobserved():
            if self._life is not None or self._closed:
                return self._life
            self._begin_somewhere(self._make_committer)
            self._thread = threading.Thread(
                target=self._keep_writing, name="memoir-writer", daemon=True
            )
            self._thread.start()
            return self._life

    def leave_file(self, error: Exception) -> None:
        """Go on in a new file: the courier found that this one is broken."""

        def give_up(_: SpoolFile) -> None:
            raise error

        with contextlib.suppress(SpoolError):
            self.perform(give_up)

    def _make_committer(self, file: SpoolFile) -> None:
        self._committer = Committer(
            file, every_commit_synced=self._synchronous == "FULL", fail_over=self._fail_over,
            make_room=self._make_room, wall_ns=self._wall_ns,
        )

    def _begin_somewhere(self, use: Callable[[SpoolFile], None]) -> SpoolFile:
        """Begin a life in a file that takes its first commit; in memory, if none does.

        Args:
            use: Told of each file before its life begins.
        """
        for _ in range(_FILES_TRIED):
            file = self._open_file()
            if file is not None and self._begins(file, use):
                return file
        complaints.say(
            "memory", f"{self.directory} cannot be used: records are kept in memory only, and die "
            "with the process.",
        )
        file = SpoolFile(None)
        use(file)
        self._begin_life(file)
        return file

    def _begins(self, file: SpoolFile, use: Callable[[SpoolFile], None]) -> bool:
        try:
            use(file)
            self._begin_life(file)
            return True
        except (sqlite3.Error, MemoirError, OSError) as error:
            complaints.say("begin", f"cannot begin in {file.path}: {error}")
        if file.lock is not None:
            self._avoid |= {file.lock.slot.number}
        with contextlib.suppress(sqlite3.Error):
            file.close()
        return False

    @property
    def _synchronous(self) -> str:
        return "NORMAL" if self.settings.durability == "process" else "FULL"

    def _open_file(self) -> SpoolFile | None:
        try:
            prepare_directory(self.directory)
            return open_slot(
                self.directory, avoid=self._avoid, synchronous=self._synchronous,
                wall_ns=self._wall_ns,
            )
        except (SpoolError, OSError, sqlite3.Error) as error:
            complaints.say("directory", str(error))
            return None

    def _begin_life(self, file: SpoolFile) -> None:
        hand_over = self.settings.durability == "batch" or _on_event_loop()
        reserve = _RESERVE if hand_over else 0
        number, stream = file.begin_stream(self._wall_ns(), reserve=reserve)
        life = Life(file.name, number, stream, self._make_stamper(stream), reserved=reserve)
        upkeep = Upkeep(file, self.settings, wall_ns=self._wall_ns, monotonic_s=self._monotonic_s)
        assert self._committer is not None
        self._committer.reserve = reserve
        with self._commits.append_lock:
            self._batch.skip_to(file.last_batch + 1)
            self._upkeep = upkeep
            self._life = life

    def _fail_over(self, error: Exception) -> Successor:
        """Leave the current file for a new one; called under the commit lock."""
        assert self._committer is not None
        file, life = self._committer.file, self._life
        if file.lock is None:
            raise SpoolError("leave the memory spool", cause=error)
        self._avoid |= {file.lock.slot.number}
        left = leave(file, error, wall_ns=self._wall_ns)
        self._left.append(left)
        return Successor(self._begin_somewhere(_ignore), life, left.let_go)

    # -- commits --------------------------------------------------------------

    def _commit(self, entries: Sequence[Entry]) -> bool:
        committer = self._committer
        if committer is None:
            return not entries
        with unobserved():
            done = committer(entries)
        if done:
            size = sum(entry.size for entry in entries)
            if entries:
                life = entries[-1].life
                life.reserved = max(life.reserved, life.stored + committer.reserve)
            assert self._upkeep is not None
            self._upkeep.appended(size)
            if entries:
                self._last_append_s = self._monotonic_s()
            self._queued_bytes = max(0, self._queued_bytes - size)
        return done

    def perform(self, work: Callable[[SpoolFile], T]) -> T:
        """Run the courier's work in a commit that is fsynced when this returns.

        It rides in an emitter's commit if one comes within 50 ms of the last.

        Raises:
            SpoolError: It could not be committed; nothing of it happened.

            Exception: What ``work`` raised; nothing of it happened.
        """
        recent = self._monotonic_s() - self._last_append_s < _RIDE_S
        busy = recent and self.settings.durability != "batch"
        with self.uninterrupted():
            return self._perform(work, ride=busy)

    def _perform(
        self, work: Callable[[SpoolFile], T], *, ride: bool, timeout: float | None = None
    ) -> T:
        committer = self._committer
        if committer is None:
            raise SpoolError("write", target=self.directory, cause="the spool is not open")
        chore = Chore(work)
        committer.chores.append(chore)
        if not (ride and chore.gate.acquire(timeout=_RIDE_S)):
            wait_s = self.settings.emit_timeout_s if timeout is None else timeout
            deadline_s = self._monotonic_s() + wait_s
            while not chore.done and (left_s := deadline_s - self._monotonic_s()) > 0:
                self._commits.commit_queued(min(left_s, 1.0))
        if not chore.done:
            with contextlib.suppress(ValueError):
                committer.chores.remove(chore)
            raise SpoolError("write", target=self.directory, cause="the disk does not answer")
        if chore.error is not None:
            raise chore.error
        return cast(T, chore.result)

    def flush(self, timeout: float) -> bool:
        """Commit and fsync all that was appended; return whether it was done in time."""
        self.check_pid()
        if self._life is None:
            return True
        deadline_s = self._monotonic_s() + timeout
        try:
            with self.uninterrupted():
                self._perform(_beat, ride=False, timeout=timeout)
        except (MemoirError, sqlite3.Error):
            return False
        return self._monotonic_s() <= deadline_s

    @property
    def is_on_disk(self) -> bool:
        """Whether records go to a file; without a usable directory they die with the process."""
        file = self.file
        return file is None or file.lock is not None

    # -- for the courier ------------------------------------------------------

    @property
    def file(self) -> SpoolFile | None:
        """The open file; ``None`` before the first record and after the end."""
        return self._committer.file if self._committer is not None else None

    @property
    def life(self) -> Life | None:
        """The stream that is being written, if any."""
        return self._life

    def close_batch(self) -> int:
        """End the open batch, so that it can be sent; no commit is needed for it.

        Returns:
            As ``end_of_closed``.
        """
        with self.uninterrupted():
            with self._commits.append_lock:
                self._batch.close()
            self._commits.commit_queued(_RIDE_S)
        return self.end_of_closed()

    def end_of_closed(self) -> int:
        """The number from which on batches may still gain rows; earlier ones are committed."""
        with self.uninterrupted():
            left = self._commits.first_queued()
        return self._batch.number if left is None else min(self._batch.number, left.batch)

    def would_refuse(self, draft: Draft) -> bool:
        """Whether a record would be refused just now."""
        return self._reason_to_refuse(draft, on_loop=False) is not None

    def has_work(self) -> bool:
        """Whether anything waits to be sent or told, be it in memory or on disk."""
        with self.uninterrupted(), self.reading:
            file = self.file
            if file is None:
                return False
            queued = self._commits.first_queued() is not None
            if file.lock is not None:
                return queued or ledger.has_work(file.reader, file.ledgered_id)
            return queued or self._perform(
                lambda mine: ledger.has_work(mine.connection, mine.ledgered_id), ride=False
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
        if self._upkeep is not None:
            self._upkeep.settled(size, delivered=delivered)

    # -- the writer thread ----------------------------------------------------

    def _keep_writing(self) -> None:
        with unobserved(), self.uninterrupted():
            while not self._stopping.is_set():
                rung = self._alarm.wait(self._next_wake_s())
                if rung:
                    self._stopping.wait(self.settings.batch_delay_s)
                self._write_once()

    def _next_wake_s(self) -> float:
        if self.settings.durability == "process":
            return min(self.settings.fsync_interval_s, _UPKEEP_INTERVAL_S)
        return _UPKEEP_INTERVAL_S

    def _write_once(self) -> None:
        committer, upkeep = self._committer, self._upkeep
        if committer is None or upkeep is None:
            return
        try:
            self._nesting.drain_left_over()
            if committer.needs_sync:
                self._perform(_beat, ride=False)
            else:
                self._commits.commit_queued(1.0)
            if upkeep.is_due():
                self._keep_up(upkeep)
        except Exception as error:  # noqa: BLE001 - without its writer a spool goes silent
            complaints.say("writer", f"upkeep of {self.directory} failed: {error}")
        self.on_accept()

    def _keep_up(self, upkeep: Upkeep) -> None:
        upkeep.refresh()
        while not self._stopping.is_set() and self._perform(upkeep.step, ride=False):
            pass
        if upkeep.disk_is_low:
            with self._commits.committing(1.0) as held:
                if held and self._committer is not None:
                    self._committer.file.truncate_log()

    def _make_room(self) -> bool:
        return self._upkeep is not None and self._upkeep.release_ballast()

    # -- the end --------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Commit what is queued, end the stream, give the slot back. Idempotent.

        Records that are emitted later are refused and counted in memory only.
        """
        self.check_pid()
        with self.uninterrupted():
            self._nesting.drain_left_over()
        self._closed = True
        with self.uninterrupted(), self._commits.append_lock:
            pass  # an emit that saw the spool open has its place in the queue now
        if self._committer is None:
            return
        if self._commits.first_queued() is not None or self._committer.needs_sync:
            self.flush(timeout)
        self._stopping.set()
        self._alarm.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        # A courier that did not stop in time may be reading: then nothing is closed.
        reading = self.reading.acquire(timeout=timeout)
        try:
            with self.uninterrupted(), self._commits.committing(timeout) as held:
                if held and reading:
                    self._close_held()
        finally:
            if reading:
                self.reading.release()

    def _close_held(self) -> None:
        committer, life = self._committer, self._life
        if committer is None or life is None:
            return
        self._committer = self._life = self._upkeep = None
        for left in self._left:
            left.close_reader()
        try:
            committer.file.end_stream(life.number, life.next_sequence - 1)
            committer.file.close()
        except sqlite3.Error as error:
            complaints.say("close", f"cannot close {committer.file.path}: {error}")


def _nothing() -> None:
    return None


def _ignore(_: SpoolFile) -> None:
    return None


def _beat(_: SpoolFile) -> None:
    """A chore that does nothing but to be committed, and so fsynced."""


def _on_event_loop() -> bool:
    """Whether this thread runs an asyncio event loop just now."""
    return asyncio._get_running_loop() is not None

