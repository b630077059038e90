"""How an index knows a spool file again, and what of it is new."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from otel_memoir.spool import schema
from otel_memoir.spool.moved import MOVED


class Face(NamedTuple):
    """A spool file as it is now.

    Attributes:
        face: Changes when the file is replaced, restored, or rows were taken out of it.

        first_id, last_id: Its first and last row; 0 where it has none.
    """

    face: str
    first_id: int
    last_id: int


def face_of(connection: sqlite3.Connection, path: Path) -> Face | None:
    """How a file looks; ``None`` if it has no tables yet."""
    if schema.is_unused(connection):
        return None
    stream_id, mark = connection.execute("SELECT stream_id, birthmark FROM file").fetchone()
    moved = connection.execute(
        "SELECT coalesce(sum(records), 0) FROM tally WHERE name = ?", (MOVED,)
    ).fetchone()[0]
    # One by one: together SQLite would read all rows.
    first = connection.execute("SELECT min(id) FROM record").fetchone()[0]
    last = connection.execute("SELECT max(id) FROM record").fetchone()[0]
    face = f"{stream_id} {mark} {schema.birthmark(path)} {moved}"
    return Face(face, first or 0, last or 0)


def is_what_was_read(connection: sqlite3.Connection, last_id: int, seal: str) -> bool:
    """Whether the last row that was read is there unchanged, or was settled and let go of.

    Else the file was restored from an older copy of itself, or rows went elsewhere and
    their ids may be used again.
    """
    if not last_id:
        return True
    row = connection.execute(
        "SELECT sequence, crc FROM record WHERE id = ?", (last_id,)
    ).fetchone()
    if row is not None:
        return seal_of(*row) == seal
    return connection.execute(
        "SELECT 1 FROM batch WHERE last_id >= ? AND first_id <= ? LIMIT 1", (last_id, last_id)
    ).fetchone() is not None


def seal_of(sequence: int, crc: int) -> str:
    """What tells the row that was read last from another one under its id."""
    return f"{sequence} {crc}"
