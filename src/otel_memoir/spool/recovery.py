"""Opening a slot whatever state it is in, and leaving one that cannot be trusted.

What this code refuses to do: guess. A file of a newer version is left alone. A
file that SQLite calls corrupt is moved aside whole, with its log, and reported;
nothing of it is deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SpoolError
from otel_memoir.spool.connection import is_corrupt
from otel_memoir.spool.directory import SlotLock, sync_directory, take_slot
from otel_memoir.spool.file import SpoolFile

BROKEN_NAME = re.compile(r"broken-\d{4,}-\d+\.db")

_TRIES_MAX = 64


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
    for _ in range(_TRIES_MAX):
        lock = take_slot(directory, avoid=avoid)
        try:
            return SpoolFile(lock, synchronous=synchronous)
        except (sqlite3.Error, SpoolError) as error:
            last = error
            avoid |= _give_up(lock, error, wall_ns)
        except OSError:
            lock.release()
            raise
    raise SpoolError("open a slot in", target=directory, cause=last)


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


def leave(
    file: SpoolFile, error: Exception, *, wall_ns: Callable[[], int]
) -> sqlite3.Connection | None:
    """Close a file that cannot be trusted, so that it can be drained or looked into.

    Returns:
        Its reading connection, still open: the courier may be reading just now, and
        closing a connection that another thread is in crashes the interpreter (seen).
        The caller closes it once nobody reads.
    """
    complaints.say("leave", f"{file.path} is not written to any more: {error}")
    lock = file.lock
    assert lock is not None
    file.lock = None
    reader = file.take_reader()
    try:
        with contextlib.suppress(sqlite3.Error):
            file.close()
        if is_corrupt(error):
            move_aside(lock, error, wall_ns)
    finally:
        lock.release()
    return reader


def move_aside(lock: SlotLock, error: Exception, wall_ns: Callable[[], int]) -> Path:
    """Rename a broken file and its log out of its slot; nothing of it is deleted."""
    slot = lock.slot
    aside = slot.directory / f"broken-{slot.number:04d}-{wall_ns()}.db"
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{slot.database}{ending}", f"{aside}{ending}")
    sync_directory(slot.directory)
    complaints.say(
        "broken", f"{slot.database} is broken ({error}); it was moved to {aside.name}, whole, and "
        "a new file was begun. `otel-memoir status` shows it.",
    )
    return aside


def broken_files(directory: Path) -> list[Path]:
    """The files that were moved aside."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            directory / name for name in os.listdir(directory) if BROKEN_NAME.fullmatch(name)
        )
    return []
