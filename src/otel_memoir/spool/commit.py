"""What one commit does: entries, chores, refusals; and what happens when it fails.

A chore is the courier's business (an attempt, a settlement). It rides in the
emitters' next commit, because a commit of its own makes ``emit`` 2.5 times
slower (measured).

When a commit fails:

- *disk full*: the ballast is given back, the chores are tried again, the entries
  are refused and become a gap. Delivery goes on, which is what frees room.
- *I/O error*: the file is suspect, since the kernel may have thrown away pages it
  could not write (Rebello et al., USENIX ATC 2020). Entries that no fsync covered
  go to a new file, which lists them; the old file is drained by adoption.
- *corrupt*: the same, and the old file is moved aside.
- *locked by a stranger*: the entries stay queued.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import MemoirError, SpoolError
from otel_memoir.spool import ledger
from otel_memoir.spool.chore import Chore, Successor
from otel_memoir.spool.connection import is_corrupt, is_disk_full, is_io_error, roll_back
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.intents import OpenIntents
from otel_memoir.spool.model import BROKEN, DISK_FULL, INTERRUPTED, Entry, Life, Refused
from otel_memoir.spool.moved import holes_left

UNSYNCED_BYTES_MAX = 8 * 2**20
"""In ``process``: at most this much is kept in memory for a failed fsync, then fsynced."""

_CHORE_BYTES = 8 * 4096
"""What a chore writes, about: some pages of the ledger and its indexes."""


class Committer:
    """The commit of one process's own file. The commit lock guards all of it.

    Args:
        fail_over: Gives a successor when the current file cannot be trusted.

        make_room: Gives the ballast back; returns whether there was any.

        wall_ns: The wall clock, for times on disk.

        owner: Whose intents are written.
    """

    def __init__(
        self,
        file: SpoolFile,
        *,
        every_commit_synced: bool,
        owner: str,
        fail_over: Callable[[Exception], Successor],
        make_room: Callable[[], bool],
        wall_ns: Callable[[], int],
    ) -> None:
        self.file = file
        self.chores: deque[Chore] = deque()
        self.refused: Counter[Refused] = Counter()
        self._refusals: deque[Refused] = deque()
        self.reserve = 0
        self.lost: list[tuple[Life, int, int, Refused]] = []
        self._every_commit_synced = every_commit_synced
        self._unsynced: list[Entry] = []
        self._unsynced_bytes = 0
        self._fail_over = fail_over
        self._make_room = make_room
        self._wall_ns = wall_ns
        self._moved: dict[Life, int] = {}
        self._origins: dict[Life, tuple[str, ...]] = {}
        self._elsewhere: dict[Life, list[tuple[int, int]]] = {}
        self._stored_again_bytes = 0
        self._ended: Life | None = None
        self._beats = file.beats()
        self._intents = OpenIntents(owner)

    @property
    def needs_sync(self) -> bool:
        """Whether commits stand on disk that no fsync has covered."""
        return bool(self._unsynced)

    @property
    def has_refusals(self) -> bool:
        """Whether records were refused that the file does not know of yet."""
        return bool(self._refusals or self.refused or self.lost)

    def take_stored_again(self) -> int:
        """Bytes that a failover stored again since this was asked last."""
        size, self._stored_again_bytes = self._stored_again_bytes, 0
        return size

    def count_refused(self, reason: Refused) -> None:
        """Count a record that was refused at the door. Any thread may call it, at any time."""
        # One step, and no lock that an exception from outside could leave taken.
        self._refusals.append(reason)

    def _gather_refusals(self) -> None:
        while self._refusals:
            self.refused[self._refusals[0]] += 1
            self._refusals.popleft()

    def __call__(self, offered: Sequence[Entry]) -> bool:
        """Store what is offered; return False if it must be offered again."""
        entries = [entry for entry in offered if entry.sequence > entry.life.stored]
        self._name_holes(entries)
        self._gather_refusals()
        chores = [self.chores.popleft() for _ in range(len(self.chores))]
        if not (entries or chores or self.has_refusals):
            return True
        try:
            self._store(entries, chores)
        except (sqlite3.Error, MemoirError) as error:
            with unobserved():
                return self._recover(entries, chores, error)
        except BaseException:
            self.chores.extendleft(chore for chore in reversed(chores) if not chore.done)
            raise
        return True

    def _name_holes(self, entries: Sequence[Entry]) -> None:
        """An emit torn by an exception from outside may have taken a number for nothing."""
        expected: dict[Life, int] = {}
        for entry in entries:
            life, sequence = entry.life, entry.sequence
            first = expected.get(life) or life.stored + 1
            hole = (life, first, sequence - 1, INTERRUPTED)
            if sequence > first and hole not in self.lost:  # offered again, it was named before
                self.lost.append(hole)
            expected[life] = sequence + 1

    def _store(self, entries: Sequence[Entry], chores: Sequence[Chore]) -> None:
        before = (self.file.last_id, self.file.ledgered_id, dict(self._moved), self._beats)
        must_sync = bool(chores) or self._unsynced_bytes > UNSYNCED_BYTES_MAX
        try:
            if must_sync:
                with self.file.synced():
                    self._transact(entries, chores)
                written = sum(e.size for e in (*self._unsynced, *entries))
            else:
                self._transact(entries, chores)
            self._stored(entries, chores, synced=must_sync or self._every_commit_synced)
            if must_sync:
                self.file.keep_log_short(written + _CHORE_BYTES * len(chores))
        except BaseException as error:
            roll_back(self.file.connection)
            # A COMMIT that was interrupted, or that raised, may have happened: the
            # rows tell. If it raised, no fsync covers it, so no chore is done.
            done = () if isinstance(error, sqlite3.Error) else chores
            if not self._was_committed(entries, done, before):
                self.file.rolled_back(before[0])
                self.file.ledgered_id, self._moved, self._beats = before[1:]
            raise

    def _transact(self, entries: Sequence[Entry], chores: Sequence[Chore]) -> None:
        # As ``connection.transaction``, but no generator: each emitter waits for this.
        connection = self.file.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._write(entries, chores)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise

    def _write(self, entries: Sequence[Entry], chores: Sequence[Chore]) -> None:
        # A life that ended does not come back: equal ends, and all are of one life.
        if entries and entries[0].life is entries[-1].life:
            number = self._number(entries[0].life, entries)
            self.file.insert(number, entries, reserve=self.reserve)
        else:
            for life, part in itertools.groupby(entries, key=lambda entry: entry.life):
                mine = list(part)
                self.file.insert(self._number(life, mine), mine, reserve=self.reserve)
        if self._intents.has_something_in(entries):
            self._intents.write(self.file.connection, entries)
        if self._ended is not None:
            self._number(self._ended, ())
        if self.refused or self.lost:
            self._write_refusals()
        if chores:
            self._run_all(chores)

    def _run_all(self, chores: Sequence[Chore]) -> None:
        with unobserved():
            for chore in chores:
                self._run(chore)
        # Marks the commit; and SQLite fsyncs nothing for one without a change.
        self._beats = self.file.beat()

    def _was_committed(
        self, entries: Sequence[Entry], chores: Sequence[Chore], before: tuple[Any, ...]
    ) -> bool:
        try:
            done = self._is_stored(entries) if entries else self.file.beats() > before[3]
        except sqlite3.Error:
            return False
        if done and (entries or chores):
            self._stored(entries, chores, synced=False)
        return done

    def _is_stored(self, entries: Sequence[Entry]) -> bool:
        last = entries[-1]
        number = self._moved.get(last.life, last.life.number)
        return self.file.stored_sequence(number) >= last.sequence

    def _run(self, chore: Chore) -> None:
        """Run a chore so that its failure does not cost the emitters their records."""
        connection = self.file.connection
        ledgered_id = self.file.ledgered_id
        connection.execute("SAVEPOINT chore")
        try:
            chore.result = chore.work(self.file)
        except Exception as error:
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO chore")
            self.file.ledgered_id = ledgered_id
            if is_disk_full(error) or is_io_error(error) or is_corrupt(error):
                raise
            chore.finish(error)
        connection.execute("RELEASE chore")

    def _write_refusals(self) -> None:
        now_ns = self._wall_ns()
        stream = self.file.newest_stream()
        for reason, records in self.refused.items():
            ledger.count(self.file.connection, stream, f"refused:{reason}", records, 0)
            ledger.note_gap(
                self.file.connection, stream, f"refused:{reason}", records, unix_ns=now_ns
            )
        for life, first, last, reason in self.lost:
            number = self._number(life, ())
            records = last - first + 1
            self.file.pass_over(number, last)
            ledger.count(self.file.connection, number, f"refused:{reason}", records, 0)
            ledger.note_gap(
                self.file.connection, number, f"refused:{reason}", records, unix_ns=now_ns,
                first_sequence=first, last_sequence=last,
            )

    def _number(self, life: Life, entries: Sequence[Entry]) -> int:
        """The number in this file of a life that may have begun in another."""
        if life.file_name == self.file.name:
            return life.number
        if life not in self._moved:
            first = entries[0].sequence if entries else life.stored + 1
            now_ns = self._wall_ns()
            number = self._moved[life] = self.file.begin_moved_stream(
                life.stream, self._origins.get(life, (life.file_name,)), first, now_ns
            )
            ledger.note_elsewhere(
                self.file.connection, number, self._elsewhere.get(life, ()), unix_ns=now_ns
            )
        return self._moved[life]

    def _stored(
        self, entries: Sequence[Entry], chores: Sequence[Chore], *, synced: bool
    ) -> None:
        """Take note of a commit; harmless if done twice."""
        for entry in entries:
            entry.life.stored = max(entry.life.stored, entry.sequence)
        self._intents.written(entries)
        if synced:
            self._unsynced.clear()
            self._unsynced_bytes = 0
        elif entries and not (self._unsynced and self._unsynced[-1] is entries[-1]):
            self._unsynced.extend(entries)
            self._unsynced_bytes += sum(entry.size for entry in entries)
        self.refused.clear()
        self.lost.clear()
        self._ended = None
        for chore in chores:
            if not chore.done:
                chore.finish()

    # -- failure --------------------------------------------------------------

    def _recover(
        self, entries: Sequence[Entry], chores: Sequence[Chore], error: Exception
    ) -> bool:
        if is_disk_full(error, at=self.file.path):
            return self._disk_is_full(entries, chores, error)
        # A number that is taken: somebody else writes to this file, whatever the lock says.
        if is_io_error(error) or is_corrupt(error) or isinstance(error, sqlite3.IntegrityError):
            return self._leave_file(entries, chores, error)
        self.chores.extendleft(chore for chore in reversed(chores) if not chore.done)
        complaints.say("commit", f"cannot write to {self.file.path}: {error}; will try again")
        return False

    def _disk_is_full(
        self, entries: Sequence[Entry], chores: Sequence[Chore], error: Exception
    ) -> bool:
        # Not what was stored before a checkpoint had no room.
        self.refuse([entry for entry in entries if entry.sequence > entry.life.stored], DISK_FULL)
        complaints.say(
            "disk full",
            f"the disk under {self.file.path} is full: new records are refused and counted "
            "until there is room. Free some space; waiting records are still delivered.",
        )
        self._make_room()
        waiting = [chore for chore in chores if not chore.done]
        if waiting:
            try:
                self._store((), waiting)
            except (sqlite3.Error, MemoirError) as again:
                if is_io_error(again) or is_corrupt(again):
                    return self._leave_file((), waiting, again)
                for chore in waiting:
                    if not chore.done:
                        chore.finish(again)
        return True

    def refuse(self, entries: Sequence[Entry], reason: Refused) -> None:
        """Give up on entries that have numbers: they become a gap, once it can be written."""
        for life, part in itertools.groupby(entries, key=lambda entry: entry.life):
            mine = list(part)
            first, last = mine[0].sequence, mine[-1].sequence
            life.refuse(first, last, reason)
            begun = self.lost[-1] if self.lost else None
            if begun is not None and begun[0] is life and begun[2:] == (first - 1, reason):
                self.lost[-1] = (life, begun[1], last, reason)
            else:
                self.lost.append((life, first, last, reason))

    def _leave_file(
        self, entries: Sequence[Entry], chores: Sequence[Chore], error: Exception
    ) -> bool:
        for chore in chores:
            if not chore.done:
                chore.finish(SpoolError("write", target=self.file.path, cause=error))
        # A COMMIT that raised and happened all the same has made them unsynced ones already.
        new = [entry for entry in entries if entry.sequence > entry.life.stored]
        again = [*self._unsynced, *new]
        left = self.file.name
        try:
            successor = self._fail_over(error)
        except (sqlite3.Error, OSError, MemoirError) as worse:
            complaints.say("failover", f"no file to go on in after {error}: {worse}")
            self.refuse(new, BROKEN)
            return True
        self._succeed(successor, again, left)
        try:
            self._store(again, ())
            self._stored_again_bytes += sum(e.size for e in again) - sum(e.size for e in entries)
        except (sqlite3.Error, MemoirError) as worse:
            complaints.say("failover", f"cannot write to {self.file.path}: {worse}")
            self.refuse(new, BROKEN)  # the file that was left has the others
        finally:
            successor.let_go()
        return True

    def _succeed(self, successor: Successor, again: Sequence[Entry], left: str) -> None:
        """Go on in a new file, which will list what is stored again as moved."""
        self.file, self._ended = successor.file, successor.ended
        self._beats = self.file.beats()
        lives = {entry.life for entry in again}
        self._elsewhere = {life: list(holes_left(life, again, self.lost)) for life in lives}
        moving = lives | ({self._ended} if self._ended else set())
        self._origins = {
            life: (*self._origins.get(life, ()), left) for life in moving
        }
        self._unsynced, self._unsynced_bytes, self._moved = [], 0, {}
        self._intents.leave(again)
