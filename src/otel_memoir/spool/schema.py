"""The tables of a spool file. ``docs/on-disk-format.md`` explains them to people.

A change here needs a new ``FORMAT`` and a step in ``MIGRATIONS``: files outlive
the program that wrote them.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from pathlib import Path

from otel_memoir.errors import SpoolError
from otel_memoir.spool.connection import open_reader, open_writer, transaction

APPLICATION_ID = 0x4D656D6F
"""``Memo`` in ASCII; what ``file(1)`` and we know a spool file by."""

FORMAT = 3

_HEADER_BYTES = 100

_TABLES = """
CREATE TABLE file (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  stream_id TEXT NOT NULL,
  birthmark TEXT NOT NULL
) STRICT;

CREATE TABLE stream (
  id INTEGER PRIMARY KEY,
  stream_id TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  began_unix_ns INTEGER NOT NULL,
  ended TEXT NOT NULL DEFAULT '',
  first INTEGER NOT NULL DEFAULT 1,
  sequence INTEGER NOT NULL DEFAULT 0,
  reserved INTEGER NOT NULL DEFAULT 0,
  accepted INTEGER NOT NULL DEFAULT 0,
  accepted_bytes INTEGER NOT NULL DEFAULT 0,
  moved_from TEXT NOT NULL DEFAULT '',
  last_unix_ns INTEGER NOT NULL DEFAULT 0,
  UNIQUE (stream_id, epoch, moved_from)
) STRICT;

CREATE TABLE envelope (
  id INTEGER PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE,
  bytes BLOB NOT NULL
) STRICT;

CREATE TABLE record (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  envelope INTEGER NOT NULL,
  severity INTEGER NOT NULL,
  accepted_unix_ns INTEGER NOT NULL,
  size INTEGER NOT NULL,
  packed INTEGER NOT NULL,
  crc INTEGER NOT NULL,
  payload BLOB NOT NULL
) STRICT;

CREATE TABLE batch (
  number INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL,
  first_id INTEGER NOT NULL,
  last_id INTEGER NOT NULL,
  first_sequence INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  records INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  state TEXT NOT NULL,
  rejected INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  ambiguous INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  suspect INTEGER NOT NULL DEFAULT 0,
  lane TEXT NOT NULL DEFAULT 'main',
  next_attempt_unix_ns INTEGER NOT NULL DEFAULT 0,
  code TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  settled_unix_ns INTEGER NOT NULL DEFAULT 0,
  pruned INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batch_waiting ON batch (lane, first_id) WHERE state = 'pending';
CREATE INDEX batch_kept ON batch (state, first_id) WHERE pruned = 0;
CREATE INDEX batch_pruned ON batch (first_id) WHERE pruned = 1 AND state = 'delivered';

CREATE TABLE tally (
  stream INTEGER NOT NULL,
  name TEXT NOT NULL,
  records INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (stream, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE gap (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL,
  cause TEXT NOT NULL,
  records INTEGER NOT NULL,
  first_sequence INTEGER,
  last_sequence INTEGER,
  at_most INTEGER NOT NULL DEFAULT 0,
  message TEXT NOT NULL DEFAULT '',
  noticed_unix_ns INTEGER NOT NULL,
  told INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX gap_untold ON gap (id) WHERE told = 0;

CREATE TABLE courier (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  held_since_unix_ns INTEGER NOT NULL DEFAULT 0,
  not_before_unix_ns INTEGER NOT NULL DEFAULT 0,
  code TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  hint TEXT NOT NULL DEFAULT '',
  beats INTEGER NOT NULL DEFAULT 0
) STRICT;
"""

# Where the ledger ends, and which answers left a doubt, without reading all of it.
_INDEXES_OF_2 = """
CREATE INDEX batch_end ON batch (last_id);
CREATE INDEX batch_ambiguous ON batch (ambiguous) WHERE ambiguous > 0;
"""

# What was begun and is not known to have ended.
_TABLE_OF_3 = """
CREATE TABLE intent (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  ended INTEGER NOT NULL,
  moved INTEGER NOT NULL,
  declared_unix_ns INTEGER NOT NULL,
  note BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: dict[int, str] = {
    1: _INDEXES_OF_2 + "ALTER TABLE stream ADD COLUMN last_unix_ns INTEGER NOT NULL DEFAULT 0",
    2: _TABLE_OF_3,
}
"""From each older format: the statements that lead to the next."""


def prepare(connection: sqlite3.Connection, path: Path | str) -> None:
    """Create or migrate the tables; on return the file has this version's format.

    The caller holds the slot, so nobody else writes.

    Raises:
        SpoolError: The file belongs to something else, or to a newer version.
    """
    if is_unused(connection):
        _create(connection, path)
        return
    check_readable(connection, path)
    _, found = _identity(connection)
    while found < FORMAT:
        with transaction(connection):
            _run(connection, MIGRATIONS[found])
            found += 1
            connection.execute(f"PRAGMA user_version = {found}")


def check_untouched(path: Path) -> None:
    """Look at a file that exists before anything is written to it.

    Opening it for writing would change it, and a file of a newer version is left alone.

    Raises:
        SpoolError: It belongs to something else, or to a newer version.
    """
    try:
        if path.stat().st_size == 0:
            return
    except FileNotFoundError:
        return
    with contextlib.closing(open_reader(path)) as connection:
        if not is_unused(connection):
            check_readable(connection, path)


def is_unused(connection: sqlite3.Connection) -> bool:
    """Whether a file has no tables yet: its process died, or its disk failed, before them."""
    return _identity(connection) == (0, 0) and bool(
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    )


def check_readable(connection: sqlite3.Connection, path: Path | str) -> None:
    """Make sure that the file is a spool file and not of a newer version.

    Raises:
        SpoolError: It is not ours, or newer.
    """
    application, found = _identity(connection)
    if application != APPLICATION_ID:
        raise SpoolError(
            "open spool", target=path, cause="it is not a spool file of otel-memoir",
            hint="Choose another spool directory.",
        )
    if found > FORMAT:
        raise SpoolError(
            "open spool", target=path, cause=f"it has format {found}, newer than {FORMAT}",
            hint="It is left alone. Upgrade otel-memoir to deliver what it holds.",
        )


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    return application, version


def _create(connection: sqlite3.Connection, path: Path | str) -> None:
    # One transaction: a power cut leaves a whole spool or an empty file.
    with transaction(connection):
        _run(connection, _TABLES + _INDEXES_OF_2 + _TABLE_OF_3)
        connection.execute(
            "INSERT INTO file VALUES (1, ?, ?)", (new_stream_id(), birthmark(path))
        )
        connection.execute("INSERT INTO courier (id) VALUES (1)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    # Not ``executescript``: it commits first.
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)


def fresh_header(path: Path) -> bytes:
    """The first bytes of a new spool file, made for this, to put before older pages.

    Without a size and a free list: SQLite then goes by the size of the file
    (sqlite.org/fileformat2, 1.3.7).
    """
    with contextlib.closing(open_writer(path, synchronous="OFF")) as connection:
        _create(connection, path)
    header = path.read_bytes()[:_HEADER_BYTES]
    return header[:28] + bytes(12) + header[40:]


def new_stream_id() -> str:
    """A random stream id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def birthmark(path: Path | str) -> str:
    """What changes when a file is copied or restored, and only then.

    Two copies of one file that both went on writing would give the same
    (stream, epoch, sequence) to different records.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return ""
    return f"{found.st_dev:x}:{found.st_ino:x}"
