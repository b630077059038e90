"""Room: how much may wait, how much is retained, and what is given back.

Nothing is deleted here that is not settled. Delivered and rejected payloads are
kept for ``retain`` and are the first to go; evicted, expired and discarded ones go
at once; quarantined ones stay until a person decides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from otel_memoir.settings import Settings
from otel_memoir.spool import ledger
from otel_memoir.spool.connection import NO_ROOM
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Batch, State

BALLAST_BYTES = 2 * 2**20
"""Enough for the write-ahead log of some thousand settlements."""

_INTERVAL_S = 1.0
_STEP_PAGES = 256
_PAGE_BYTES = 4096
_NEVER_RETAINED = ("evicted", "expired", "discarded")


class Upkeep:
    """The room of one open file. ``step`` runs in the commit; the rest anywhere."""

    def __init__(
        self,
        file: SpoolFile,
        settings: Settings,
        *,
        wall_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._file = file
        self._settings = settings
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        accepted, retained = file.connection.execute(
            "SELECT (SELECT coalesce(sum(accepted_bytes), 0) FROM stream), "
            "(SELECT coalesce(sum(bytes), 0) FROM batch WHERE pruned = 0 "
            "AND state = 'delivered')"
        ).fetchone()
        self._waiting_bytes: int = accepted - ledger.settled_bytes(file.connection)
        self._retained_bytes: int = retained
        self._next_s = float("-inf")
        self._runs: list[ledger.Run] = []
        self._merge_from_id = 0
        self.disk_is_low = False
        self.disk_free_bytes: int | None = None
        self._is_spent = False
        self._make_ballast()
        self._look_at_disk()

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    # -- bounds ---------------------------------------------------------------

    def appended(self, size: int) -> None:
        """Count bytes that were accepted."""
        self._waiting_bytes += size

    def settled(self, size: int, *, delivered: bool) -> None:
        """Count bytes that no longer wait; those of delivered records are retained."""
        self._waiting_bytes -= size
        self._retained_bytes += size if delivered else 0

    @property
    def waiting_bytes(self) -> int:
        """Payload bytes that wait."""
        return self._waiting_bytes

    @property
    def waiting_bytes_max(self) -> int:
        """How many may wait; a fifth of them only for urgent records."""
        return self._most_bytes(urgent=True)

    def has_room(self, size: int, *, urgent: bool) -> bool:
        """Whether ``size`` more bytes may wait; the last fifth is for urgent records."""
        return self._waiting_bytes + size <= self._most_bytes(urgent=urgent)

    def can_ever_fit(self, size: int, *, urgent: bool) -> bool:
        """Whether a record of ``size`` bytes has room in an empty spool."""
        return size <= self._most_bytes(urgent=urgent)

    def _most_bytes(self, *, urgent: bool) -> int:
        settings, on_disk = self._settings, self._file.lock is not None
        limit = settings.spool_bytes_max if on_disk else settings.memory_bytes_max
        return limit if urgent else limit * 4 // 5

    def is_due(self) -> bool:
        """Whether it is time for ``refresh`` and ``step``."""
        return self._monotonic_s() >= self._next_s

    def refresh(self) -> None:
        """Look at the disk; take the ballast back once there is room for it."""
        self._next_s = self._monotonic_s() + _INTERVAL_S
        self._look_at_disk()
        if not self.disk_is_low or self._is_spent:
            self._make_ballast()
            self._look_at_disk()

    def _look_at_disk(self) -> None:
        if self._file.lock is None:
            return
        found = os.statvfs(self._file.lock.slot.directory)
        free = self.disk_free_bytes = found.f_bavail * found.f_frsize
        # Without its ballast a spool takes no records before there is room to make one:
        # they would fill what settling needs.
        spent = not self._file.lock.slot.ballast.exists() and free < 2 * BALLAST_BYTES
        self.disk_is_low = spent or self._is_spent or free < self._settings.disk_free_bytes_min

    # -- the ballast ----------------------------------------------------------

    def _make_ballast(self) -> None:
        if self._file.lock is None or self._file.lock.slot.ballast.exists():
            return
        path = self._file.lock.slot.ballast
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                _allocate(descriptor, BALLAST_BYTES)
                self._is_spent = False
            except OSError as error:
                # A quota may be used up though the disk has room.
                self._is_spent = error.errno in NO_ROOM
                path.unlink()
            finally:
                os.close(descriptor)

    def release_ballast(self) -> bool:
        """Give the ballast back to a full disk; return whether there was any.

        Without it a full disk cannot even settle: deleting a row writes too.
        """
        if self._file.lock is None:
            return False
        try:
            self._file.lock.slot.ballast.unlink()
        except OSError:
            return False
        self._look_at_disk()
        return True

    # -- letting go -----------------------------------------------------------

    def evict_oldest(self, file: SpoolFile, before_batch: int) -> int:
        """Evict the oldest batch that was never sent, whole; return its bytes.

        Inside the caller's transaction. The loss is counted and becomes a gap.
        """
        batch = ledger.next_unledgered(
            file.connection, file.ledgered_id, before_batch, self._settings.request_records_max
        )
        if batch is None:
            return 0
        ledger.open_batch(file.connection, batch)
        give_up(file.connection, batch, State.EVICTED, unix_ns=self._wall_ns())
        file.ledgered_id = batch.last_id
        self.settled(batch.bytes, delivered=False)
        return batch.bytes

    def has_step(self, file: SpoolFile) -> bool:
        """Whether there is anything to let go of. Only reads: an idle process writes nothing."""
        self._runs, self._merge_from_id = ledger.pruned_runs(file.connection, self._merge_from_id)
        return (
            bool(self._runs)
            or self._next_to_prune(file.connection) is not None
            or _free_pages(file.connection) > self._free_pages_max
        )

    def step(self, file: SpoolFile) -> int:
        """Let go of some payloads, ledger rows and pages whose time is over.

        Inside the caller's transaction, and short: emitters wait behind it.

        Returns:
            How many retained bytes went, for ``let_go`` once it is committed.
        """
        while self._runs:
            ledger.merge(file.connection, self._runs.pop())
        found = self._next_to_prune(file.connection)
        if found is not None:
            file.note_written(found[0].bytes)  # pages that get free are written, too
            return self._prune(file.connection, *found)
        if _free_pages(file.connection) > self._free_pages_max:
            _vacuum(file.connection)
            file.note_written(2 * _STEP_PAGES * _PAGE_BYTES)  # each page that goes moves another
        return 0

    def let_go(self, size: int) -> None:
        """Count bytes that are retained no longer."""
        self._retained_bytes -= size

    @property
    def _free_pages_max(self) -> int:
        return 0 if self.disk_is_low else 4 * _STEP_PAGES

    def _next_to_prune(self, connection: sqlite3.Connection) -> tuple[Batch, bool] | None:
        """The next batch whose payloads go, and whether they were retained."""
        for state in _NEVER_RETAINED:
            if found := ledger.oldest_kept(connection, state):
                return found[0], False
        found = ledger.oldest_kept(connection, "delivered")
        if found is None:
            return None
        batch, settled_unix_ns = found
        age_s = (self._wall_ns() - settled_unix_ns) / 1e9
        most = self._settings.retain_bytes_max if self._file.lock is not None else 0
        too_many = self._retained_bytes > most
        crowded = self.disk_is_low
        is_over = too_many or crowded or age_s > self._settings.retain_s
        return (batch, True) if is_over else None

    def _prune(self, connection: sqlite3.Connection, batch: Batch, retained: bool) -> int:
        connection.execute(
            "DELETE FROM record WHERE id BETWEEN ? AND ?", (batch.first_id, batch.last_id)
        )
        connection.execute("UPDATE batch SET pruned = 1 WHERE number = ?", (batch.number,))
        return batch.bytes if retained else 0


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        written = os.write(descriptor, bytes(size))
        if written < size:
            raise OSError(errno.ENOSPC, "no room for the ballast")


def _vacuum(connection: sqlite3.Connection) -> None:
    """Free some pages. Python 3.11 frees one a statement, others all they ask for (measured)."""
    goal = max(0, _free_pages(connection) - _STEP_PAGES)
    for _ in range(_STEP_PAGES):
        if (more := _free_pages(connection) - goal) <= 0:
            return
        connection.execute(f"PRAGMA incremental_vacuum({more})").fetchall()


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def give_up(
    connection: sqlite3.Connection,
    batch: Batch,
    state: State,
    *,
    unix_ns: int,
    code: str = "",
    message: str = "",
) -> None:
    """Settle a batch that will not be delivered, and write the gap that says so."""
    ledger.settle(connection, batch, state, unix_ns=unix_ns, code=code, message=message)
    ledger.note_gap(
        connection, batch.stream, state.value, batch.records, unix_ns=unix_ns,
        first_sequence=batch.first_sequence, last_sequence=batch.last_sequence,
        message=f"{code}: {message}" if code else message,
    )


def bytes_on_disk(database: Path) -> int:
    """What a spool file and its log take on disk. Asks with stat only."""
    total = 0
    for ending in ("", "-wal"):
        with contextlib.suppress(OSError):
            total += os.stat(f"{database}{ending}").st_size
    return total
