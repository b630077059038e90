"""How a spool file is opened: explicit transactions, durable on demand.

One connection in one process writes and checkpoints a file; everyone else opens
it read-only and briefly. That avoids both the unfair ``busy_timeout`` (7,481
commits for one process against 1 for another, measured) and the WAL-reset bug of
SQLite 3.7.0 to 3.51.2, which needs two connections that write or checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from otel_memoir.errors import SpoolCorruptError, SpoolError, SpoolRemovedError

MEMORY = ":memory:"

StorageError = sqlite3.Error
"""What SQLite raises, for rooms that do not know SQLite."""

_SQLITE_LEAST = (3, 37)
"""The first one with STRICT tables."""

SQLITE_VERSION = sqlite3.sqlite_version

_PROBE_BYTES = 2**16
_CHECKPOINT_PAGES = 1000

_SYNCHRONOUS = {"OFF": 0, "NORMAL": 1, "FULL": 2}


def sqlite_lacks(
    version: tuple[int, ...] = sqlite3.sqlite_version_info,
    threadsafety: int = sqlite3.threadsafety,
) -> str:
    """Why a SQLite cannot keep a spool, if so.

    The WAL-reset bug of 3.7.0 to 3.51.2 is none: one connection writes and checkpoints.
    """
    if version < _SQLITE_LEAST:
        return f"SQLite {'.'.join(map(str, version))} has no STRICT tables"
    if threadsafety == 0:  # 1 is what Python 3.10 says of every build
        return "SQLite was built without its locks (THREADSAFE=0)"
    return ""


def open_writer(path: Path | str, *, synchronous: str) -> sqlite3.Connection:
    """Open the one connection that writes.

    On return every commit is as durable as ``synchronous`` says, read back and
    not only asked for.

    Args:
        path: The file, or ``MEMORY``.

        synchronous: ``FULL`` (a commit returns after fsync), ``NORMAL``, or ``OFF`` for a
            file that nobody will miss.

    Raises:
        sqlite3.Error: It cannot be opened.

        SpoolError: SQLite did not take a setting that durability rests on.
    """
    if sqlite3.sqlite_version_info < _SQLITE_LEAST:
        raise SpoolError(
            "open spool", target=path, cause=f"SQLite {sqlite3.sqlite_version} is too old",
            hint="Use a Python whose sqlite3 module has SQLite 3.37 or newer.",
        )
    # The class, not sqlite3.connect: the latter is what opentelemetry-
    # instrumentation-sqlite3 wraps, and it would trace our own queue.
    connection = sqlite3.Connection(str(path), isolation_level=None, check_same_thread=False)
    try:
        _configure(connection, on_disk=str(path) != MEMORY)
        # Where a commit does not fsync, a checkpoint does: an fsync that fails in one of SQLite's
        # own is ignored, and the next one then succeeds without the pages that are gone. Who
        # writes with NORMAL checkpoints by itself.
        pages = 0 if synchronous == "NORMAL" else _CHECKPOINT_PAGES
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        set_synchronous(connection, synchronous)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, *, on_disk: bool) -> None:
    # Short: only a stranger can hold the lock, and callers have deadlines of their own.
    connection.execute("PRAGMA busy_timeout = 250")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if on_disk and connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise SpoolError(
            "open spool", cause="SQLite cannot keep a write-ahead log here",
            hint="Set MEMOIR_SPOOL_DIR to a directory on a local disk.",
        )
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cache_size = -4096")
    if sys.platform == "darwin":
        # fsync(2) of macOS leaves data in the drive's cache.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")


def set_synchronous(connection: sqlite3.Connection, level: str) -> None:
    """Set how durable a commit is, and make sure that it is so.

    Raises:
        SpoolError: SQLite answered with another level.
    """
    connection.execute(f"PRAGMA synchronous = {level}")
    if connection.execute("PRAGMA synchronous").fetchone() != (_SYNCHRONOUS[level],):
        raise SpoolError(
            "open spool", cause=f"SQLite did not take synchronous={level}",
            hint="Use another SQLite build: durability rests on it.",
        )


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a file to look at it; it cannot write, lock out or checkpoint anything.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if _is_at_rest(path) else ''}"
    connection = sqlite3.Connection(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def _is_at_rest(path: Path) -> bool:
    """Whether a file has no log and cannot get one here: a copy on a medium that is read only.

    SQLite would make a log even to read, and cannot. Whoever writes has a log.
    """
    return not os.path.exists(f"{path}-wal") and not os.access(path.parent, os.W_OK)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or none of it.

    ``BEGIN IMMEDIATE``, because a read that turns into a write gets BUSY at once
    whatever ``busy_timeout`` says. A rollback that fails does not hide the first
    error.
    """
    # BEGIN stands inside: an exception from outside can strike right after it.
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction, if one is open, without its changes."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where there is no room, be it the disk's or the user's."""


def is_disk_full(error: BaseException, *, at: Path | str | None = None) -> bool:
    """Whether there is no room, by what SQLite or the system said.

    SQLite knows ENOSPC only. A quota that is used up (EDQUOT) is to it a write that
    failed, so the file system is asked itself.

    Args:
        at: The file that was written to; without it, a quota is not asked for.
    """
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if not isinstance(error, sqlite3.OperationalError):
        return False
    failed_write = getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_WRITE"  # 3.11
    return "is full" in str(error) or (
        failed_write and at is not None and _is_quota_used_up(Path(at).parent)
    )


def _is_quota_used_up(directory: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return error.errno in NO_ROOM
    return False


def is_io_error(error: BaseException) -> bool:
    """Whether the disk failed under SQLite. After it a commit may or may not be durable."""
    failed = isinstance(error, sqlite3.OperationalError) and "disk I/O error" in str(error)
    return failed or isinstance(error, SpoolRemovedError)


def is_corrupt(error: BaseException) -> bool:
    """Whether the file is not what SQLite wrote."""
    if isinstance(error, SpoolCorruptError):
        return True
    words = ("malformed", "not a database", "file is encrypted", "corrupt")
    return isinstance(error, sqlite3.DatabaseError) and any(w in str(error) for w in words)
