"""Where batches come from: our own file, and files whose process died.

Every file has exactly one courier: its writer's, or that of the one process that
holds its slot after the writer died. A file's batches are sent in row order, which
is the order of its streams' sequences.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SpoolError
from otel_memoir.spool import Spool, ledger
from otel_memoir.spool.connection import StorageError, is_corrupt, transaction
from otel_memoir.spool.directory import Slot, SlotLock, slots, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.recovery import move_aside, open_held, open_slot
from otel_memoir.spool.salvage import salvage_all

T = TypeVar("T")

_NO_BATCH = 2**62


class Source(Protocol):
    """A file whose batches this courier sends."""

    @property
    def file(self) -> SpoolFile: ...

    def perform(self, work: Callable[[SpoolFile], T]) -> T:
        """Run ``work`` in one transaction, fsynced on return."""
        ...

    def end_of_closed(self, *, close_open: bool) -> int:
        """The number from which on batches may still gain rows.

        Args:
            close_open: First end the batch that is being appended to.
        """
        ...

    def batch_numbers(self, count: int) -> range:
        """Numbers for new batches."""
        ...

    def settled(self, size: int, *, delivered: bool) -> None:
        """Take note that waiting bytes were settled."""
        ...

    def is_left(self) -> bool:
        """Whether the file was given up, so that nothing can be written to it any more."""
        ...


class OwnSource:
    """The file that this process writes."""

    def __init__(self, spool: Spool, file: SpoolFile) -> None:
        self._spool = spool
        self.file = file

    def perform(self, work: Callable[[SpoolFile], T]) -> T:
        def here(file: SpoolFile) -> T:
            # Planned before a failover, the same ids mean other records in the new file.
            if file is not self.file:
                raise SpoolError("write", target=self.file.path, cause="the file was left")
            return work(file)

        return self._spool.perform(here)

    def end_of_closed(self, *, close_open: bool) -> int:
        return self._spool.close_batch() if close_open else self._spool.end_of_closed()

    def batch_numbers(self, count: int) -> range:
        return self._spool.batch_numbers(count)

    def settled(self, size: int, *, delivered: bool) -> None:
        if not self.is_left():  # the room is the next file's
            self._spool.settled(size, delivered=delivered)

    def is_left(self) -> bool:
        return self._spool.file is not self.file


class AdoptedSource:
    """The file of a process that died; nobody writes to it but this courier.

    Args:
        file: The file.

        owner: The process that adopted it.
    """

    def __init__(self, file: SpoolFile, owner: str) -> None:
        self.file = file
        self._owner = owner

    def perform(self, work: Callable[[SpoolFile], T]) -> T:
        last_id = self.file.ledgered_id
        try:
            with transaction(self.file.connection):
                return work(self.file)
        except BaseException:
            self.file.ledgered_id = last_id
            raise

    def end_of_closed(self, *, close_open: bool) -> int:
        del close_open
        return _NO_BATCH

    def batch_numbers(self, count: int) -> range:
        first = self.file.last_batch + 1
        self.file.last_batch += count
        return range(first, first + count)

    def settled(self, size: int, *, delivered: bool) -> None:
        del size, delivered

    def is_left(self) -> bool:
        return False

    def is_drained(self) -> bool:
        """Whether nothing in the file waits to be sent or told."""
        return not ledger.has_work(
            self.file.connection, self.file.ledgered_id, owner=self._owner
        )


class Adoption:
    """Finds files that nobody holds and takes those in which something waits.

    Args:
        directory: The spool directory.

        wall_ns: The wall clock, for times on disk.

        owner: The process that adopts.
    """

    def __init__(
        self, directory: Path, *, wall_ns: Callable[[], int], owner: Callable[[], str] = str
    ) -> None:
        self._directory = directory
        self._wall_ns = wall_ns
        self._owner = owner
        self._seen: dict[int, tuple[float, ...]] = {}

    def look(self, *, most: int, own: str = "") -> list[AdoptedSource]:
        """Adopt at most so many files; each goes to exactly one process.

        Args:
            most: How many.

            own: The slot that this process writes, which is not free even if its lock is gone.
        """
        self._salvage()
        found: list[AdoptedSource] = []
        for slot in slots(self._directory):
            if len(found) == most:
                break
            mark = _mark(slot)
            if slot.name == own or self._seen.get(slot.number) == mark:
                continue
            source = self._try(slot)
            if source is not None:
                found.append(source)
        return found

    def _salvage(self) -> None:
        def a_slot() -> SpoolFile:
            return open_slot(self._directory, synchronous="FULL", wall_ns=self._wall_ns)

        try:
            salvage_all(self._directory, open_slot=a_slot, unix_ns=self._wall_ns())
        except (StorageError, SpoolError, OSError) as error:
            complaints.say("salvage", f"cannot salvage in {self._directory} just now: {error}")

    def set_aside(self, source: AdoptedSource, error: Exception) -> None:
        """Move a file out of the way that turned out to be broken, to be salvaged."""
        lock = source.file.lock
        assert lock is not None
        try:
            source.file.close_connections()
            move_aside(lock, error, self._wall_ns)
        finally:
            lock.release()

    def release(self, source: AdoptedSource) -> None:
        """Give a drained file back, for a new process to write to."""
        lock = source.file.lock
        try:
            source.file.close_connections()
        except StorageError as error:
            complaints.say("release", f"cannot close {source.file.path}: {error}")
        if lock is not None:
            # While it is ours: what another writes from now on is news.
            self._seen[lock.slot.number] = _mark(lock.slot)
            lock.release()

    def _try(self, slot: Slot) -> AdoptedSource | None:
        try:
            lock = try_lock(slot)
        except OSError as error:
            complaints.say("adopt", f"cannot look at {slot.database}: {error}")
            return None
        if lock is None:
            return None
        file: SpoolFile | None = None
        try:
            file = open_held(lock)
            file.end_lost_streams(self._wall_ns())
            source = AdoptedSource(file, self._owner())
            if not source.is_drained():
                return source
            self.release(source)
        except (StorageError, SpoolError, OSError) as error:
            if file is not None:
                with contextlib.suppress(StorageError):
                    file.close_connections()
            self._give_up(lock, error)
        return None

    def _give_up(self, lock: SlotLock, error: Exception) -> None:
        """Leave a file that could not be adopted; a broken one is moved aside, to be salvaged."""
        slot = lock.slot
        try:
            if is_corrupt(error):
                move_aside(lock, error, self._wall_ns)
            else:
                complaints.say("adopt", f"cannot adopt {slot.database}: {error}")
            if isinstance(error, SpoolError):
                # Not ours, or newer. What a full disk or a lack of descriptors did passes.
                self._seen[slot.number] = _mark(slot)
        except OSError as worse:
            complaints.say("adopt", f"cannot move {slot.database} aside: {worse}")
        finally:
            lock.release()


def _mark(slot: Slot) -> tuple[float, ...]:
    """What changes when somebody writes to the slot's file."""
    marks: list[float] = []
    for ending in ("", "-wal"):
        try:
            found = os.stat(f"{slot.database}{ending}")
            marks += (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            marks.append(-1)
    return tuple(marks)

