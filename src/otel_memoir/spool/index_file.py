"""The file of an index: where it is, who may write it, what becomes of a damaged one.

An index is derived from spool files and may be deleted at any time, so nothing here is
as durable as a spool: a power cut costs at most the time to read the files once more.
As with a spool, one connection writes and checkpoints, in the process that holds an
flock; all others read. Where the directory is not ours to write to, the index is
SQLite's private temporary database, gone with its connection.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from otel_memoir.errors import SpoolError
from otel_memoir.spool import forks
from otel_memoir.spool.connection import open_reader, transaction
from otel_memoir.spool.directory import try_lock_file

NAME = "memoir-index.db"
LOCK_NAME = "memoir-index.lock"

Prepare = Callable[[sqlite3.Connection], None]

_APPLICATION_ID = 0x4D656D49  # ``MemI``
_ENDINGS = ("", "-wal", "-shm", "-journal")
_LOOK_S = 0.01
_FORK_WAIT_S = 5.0


class _Guard:
    """Keeps a fork from happening while a thread looks into files with SQLite."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held_for_fork = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def quiesce(self) -> None:
        self._held_for_fork = self._lock.acquire(timeout=_FORK_WAIT_S)

    def resume(self) -> None:
        if self._held_for_fork:
            self._lock.release()

    def forget(self) -> None:
        self._lock = threading.RLock()


looking = _Guard()
"""Held around every read of the retrieval; let go of between pages."""
forks.watch(looking)

_of_the_parent: list[object] = []


class IndexFile:
    """The index file of one directory. Opens nothing before it is used.

    Args:
        directory: The spool directory.

        describes: What its entries say, version included; an index that says other
            things is thrown away.

        prepare: Creates the tables in a new file, inside a transaction.
    """

    def __init__(self, directory: Path, *, describes: str, prepare: Prepare) -> None:
        self.path = directory / NAME
        self._lock_path = directory / LOCK_NAME
        self._describes = describes
        self._prepare = prepare
        self._private: sqlite3.Connection | None = None
        self._begin()

    @contextlib.contextmanager
    def writing(self, timeout: float) -> Iterator[sqlite3.Connection]:
        """The one connection that may write, for the block.

        Raises:
            SpoolError: Another process was writing for longer than ``timeout`` seconds.

            sqlite3.Error: The disk failed.
        """
        self._check_pid()
        lock = self._lock(timeout)
        if lock is None:
            with self._privately(timeout):
                yield self._private_connection()
            return
        try:
            self.close()
            with contextlib.closing(self._opened()) as connection:
                yield connection
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads, for the block.

        Raises:
            sqlite3.Error: There is no usable index yet.
        """
        self._check_pid()
        if self._private is not None:
            yield self._private
            return
        with contextlib.closing(open_reader(self.path)) as connection:
            if not self._is_whole(connection):
                raise sqlite3.DatabaseError("not an index of this version")
            yield connection

    def throw_away(self, timeout: float) -> None:
        """Delete the index; the next one who writes begins anew.

        Raises:
            SpoolError: As ``writing``.
        """
        lock = self._lock(timeout)
        self.close()
        if lock is not None:
            try:
                self._unlink()
            finally:
                os.close(lock)

    def close(self) -> None:
        """Let go of a private index. Idempotent."""
        self._check_pid()
        private, self._private = self._private, None
        if private is not None:
            private.close()

    def _check_pid(self) -> None:
        """In a fork child: begin anew; what the parent opened is never closed here."""
        if self._pid != os.getpid():
            _of_the_parent.append(self._private)
            self._begin()

    def _begin(self) -> None:
        self._private = None
        self._private_lock = threading.Lock()
        self._pid = os.getpid()

    # -- the lock -------------------------------------------------------------

    def _lock(self, timeout: float) -> int | None:
        """The descriptor of the held lock; ``None`` where the index is private."""
        if not self._is_ours():
            return None
        deadline_s = time.monotonic() + timeout
        never = threading.Event()
        while True:
            try:
                lock = try_lock_file(self._lock_path)
            except OSError:
                return None
            if lock is not None:
                return lock
            if time.monotonic() >= deadline_s:
                raise self._busy(timeout)
            never.wait(_LOOK_S)

    def _busy(self, timeout: float) -> SpoolError:
        return SpoolError(
            "bring index up to date", target=self.path,
            cause=f"somebody else was at it for longer than {timeout:g} s",
            hint="Ask again, with a longer timeout.",
        )

    @contextlib.contextmanager
    def _privately(self, timeout: float) -> Iterator[None]:
        """Keep other threads from the private index while one writes to it."""
        lock = self._private_lock
        if not lock.acquire(timeout=timeout):
            raise self._busy(timeout)
        try:
            yield
        finally:
            lock.release()

    def _is_ours(self) -> bool:
        # A file that root leaves in a user's directory could not be used by that user.
        directory = self.path.parent
        try:
            mine = directory.stat().st_uid == os.geteuid()
        except OSError:
            return False
        return mine and os.access(directory, os.W_OK | os.X_OK)

    # -- opening --------------------------------------------------------------

    def _private_connection(self) -> sqlite3.Connection:
        if self._private is None:
            self._private = self._begun(_connect(""))
        return self._private

    def _opened(self) -> sqlite3.Connection:
        """The file, ready to be written to; a damaged or foreign one is begun anew."""
        with contextlib.suppress(sqlite3.Error, OSError):
            if self.path.is_file() and not self.path.is_symlink():
                connection = _connect(self.path)
                if self._is_whole(connection):
                    return connection
                connection.close()
        self._unlink()
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return self._begun(_connect(self.path))

    def _is_whole(self, connection: sqlite3.Connection) -> bool:
        if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            return False
        return bool(connection.execute("SELECT text FROM about").fetchone() == (self._describes,))

    def _begun(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        with transaction(connection):
            connection.execute("CREATE TABLE about (text TEXT NOT NULL) STRICT")
            connection.execute("INSERT INTO about VALUES (?)", (self._describes,))
            self._prepare(connection)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        return connection

    def _unlink(self) -> None:
        for ending in _ENDINGS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}{ending}")


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.Connection(str(path), isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA busy_timeout = 250")
        if path != "":
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        # In WAL mode a commit does not fsync, a checkpoint does: never damaged by a power cut.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cache_size = -65536")
    except BaseException:
        connection.close()
        raise
    return connection
