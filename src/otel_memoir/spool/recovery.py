"""Opening a slot whatever state it is in, and leaving one that cannot be trusted.

What this code refuses to do: guess. A file of a newer version is left alone. A
file that SQLite calls corrupt is moved aside whole, with its log, and reported;
nothing of it is deleted.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SpoolError
from otel_memoir.spool.connection import is_corrupt, is_disk_full, is_io_error
from otel_memoir.spool.directory import SlotLock, rename_database, take_slot
from otel_memoir.spool.file import SpoolFile, abandoned
from otel_memoir.spool.moved import give_away_moved

_TRIES_MAX = 64
_FAILING_MAX = 3
"""So many slots with an I/O error, and it is the disk; more files on it would be litter."""


def open_slot(
    directory: Path,
    *,
    synchronous: str,
    wall_ns: Callable[[], int],
    avoid: frozenset[int] = frozenset(),
) -> SpoolFile:
    """Take a slot and open its file; a broken file is moved aside and a new one begun.

    Raises:
        SpoolError: No slot of the directory can be used.

        OSError: The directory cannot be used.
    """
    last: Exception | None = None
    failing = 0
    for _ in range(_TRIES_MAX):
        lock = take_slot(directory, avoid=avoid)
        try:
            return open_held(lock, synchronous=synchronous)
        except (sqlite3.Error, SpoolError) as error:
            last = error
            avoid |= _give_up(lock, error, wall_ns)
            failing += is_io_error(error)
            if failing >= _FAILING_MAX or is_disk_full(error, at=lock.slot.database):
                break
        except OSError:
            lock.release()
            raise
    raise SpoolError("open a slot in", target=directory, cause=last) from last


def open_held(lock: SlotLock, *, synchronous: str = "FULL") -> SpoolFile:
    """Open the file of a held slot, without what other files list as moved from it.

    Raises:
        sqlite3.Error: It cannot be opened.

        SpoolError: It is not ours, newer, or broken.

        OSError: The disk failed.
    """
    file = SpoolFile(lock, synchronous=synchronous)
    try:
        give_away_moved(file)
    except BaseException:
        file.connection.close()
        raise
    return file


def _give_up(lock: SlotLock, error: Exception, wall_ns: Callable[[], int]) -> frozenset[int]:
    """Leave a slot that did not open; return the slots to avoid from now on."""
    try:
        if is_corrupt(error):
            move_aside(lock, error, wall_ns)
            return frozenset()
        complaints.say("open", f"cannot use {lock.slot.database}: {error}")
        return frozenset({lock.slot.number})
    finally:
        lock.release()


class LeftFile:
    """A file that is not written to any more, while something of it is still in use.

    Args:
        lock: Its slot, held until what it may have lost is stored elsewhere.

        reader: Its reading connection: the courier may be reading just now, and closing a
            connection that another thread is in crashes the interpreter (seen).
    """

    def __init__(self, lock: SlotLock, reader: sqlite3.Connection | None) -> None:
        self._lock = lock
        self._reader = reader

    def let_go(self) -> None:
        """Give the slot back, for the file to be drained."""
        self._lock.release()

    def close_reader(self) -> None:
        """Close the reading connection. The caller sees to it that nobody reads."""
        if self._reader is not None:
            self._reader.close()

    def abandon(self) -> None:
        """In a fork child: let go of the parent's file without touching it."""
        abandoned.append(self._reader)
        self._lock.abandon()


def leave(file: SpoolFile, error: Exception, *, wall_ns: Callable[[], int]) -> LeftFile:
    """Close a file that cannot be trusted, so that it can be drained or looked into."""
    complaints.say("leave", f"{file.path} is not written to any more: {error}")
    lock = file.lock
    assert lock is not None
    file.lock = None
    left = LeftFile(lock, file.take_reader())
    with contextlib.suppress(sqlite3.Error):
        file.close()
    if is_corrupt(error):
        try:
            move_aside(lock, error, wall_ns)
        except OSError as worse:  # whoever opens it next tries again
            complaints.say("broken", f"{file.path} is broken and cannot be moved aside: {worse}")
    return left


def move_aside(lock: SlotLock, error: Exception, wall_ns: Callable[[], int]) -> Path:
    """Rename a broken file and its log out of its slot; nothing of it is deleted."""
    slot = lock.slot
    aside = slot.directory / f"broken-{slot.number:04d}-{wall_ns()}.db"
    rename_database(slot.database, aside)
    complaints.say(
        "broken", f"{slot.database} is broken ({error}); it was moved to {aside.name}, whole, and "
        "a new file was begun. What can be read of it goes on; `otel-memoir status` shows it.",
    )
    return aside
