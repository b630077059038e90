"""The tables of an index, and when their own indexes are made."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from otel_memoir.spool.connection import transaction

SLOT_SHIFT = 40
"""An entry's id is its file's number in the index, then its row id in that file."""

ROWS_MAX = (1 << SLOT_SHIFT) - 1

_OF_TERMS = "by_term"
COMPLETE = "by_time"
"""The index that is made last: where it is, the others are."""

_TABLES = """
CREATE TABLE source (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, face TEXT NOT NULL,
  last_id INTEGER NOT NULL, seal TEXT NOT NULL
) STRICT;
CREATE TABLE life (
  number INTEGER PRIMARY KEY, stream_id TEXT NOT NULL, epoch INTEGER NOT NULL,
  UNIQUE (stream_id, epoch)
) STRICT;
CREATE TABLE term (
  number INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE TABLE also (
  term INTEGER NOT NULL, unix_ns INTEGER NOT NULL, id INTEGER NOT NULL
) STRICT;
"""


def prepare(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Create the tables; the indexes come when the first rows are in."""
    columns = "".join(f", {key} INTEGER" for key in keys)
    entry = (
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, life INTEGER NOT NULL, sequence INTEGER "
        f"NOT NULL, unix_ns INTEGER NOT NULL, severity INTEGER NOT NULL, uid TEXT{columns}) STRICT"
    )
    for statement in (*_TABLES.split(";"), entry):
        if statement.strip():
            connection.execute(statement)


def drop_indexes(connection: sqlite3.Connection) -> None:
    """Drop what ``create_indexes`` made, but for that of the words, before many rows are added."""
    with transaction(connection):
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'by!_%' ESCAPE '!'"
        ).fetchall():
            if name != _OF_TERMS:
                connection.execute(f"DROP INDEX {name}")


def create_index_of_terms(connection: sqlite3.Connection) -> None:
    """Create what finds a word, if it is missing."""
    connection.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {_OF_TERMS} ON term (kind, text)")


def create_indexes(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Create the indexes that are missing.

    To sort once is faster than to insert in order, and writes each page once: inserted by
    and by, a million rows wrote 3 kB each into the log.
    """
    create_index_of_terms(connection)
    wanted = {
        "by_also": "also (term, unix_ns, id)", "by_life": "entry (life, unix_ns)",
        "by_sequence": "entry (life, sequence)", "by_uid": "entry (uid) WHERE uid IS NOT NULL",
        **{f"by_{key}": f"entry ({key}, unix_ns) WHERE {key} IS NOT NULL" for key in keys},
        COMPLETE: "entry (unix_ns)",
    }
    for name, what in wanted.items():
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {what}")
