"""Intents: what a process set out to do, and has not said yet what came of it.

A record can declare an intent, and a later one can end it. Both are written in the
record's own commit, so that after a crash it is known of each intent whether its outcome
is on disk. Those whose process died without it are told of by the courier that finds
them, as losses are: once.

An intent that is open in a file that was left after a failure is written into the next
one too, with one more move, and its end is kept there: whoever finds it open in the old
file looks into the others of the directory before it says that nobody knows. Of two files
that have it as open, the one with more moves tells.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from otel_memoir.errors import SpoolError
from otel_memoir.spool.directory import slots
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.model import Entry

_WRITE = "INSERT OR REPLACE INTO intent VALUES (?, ?, ?, ?, ?, ?)"


class Orphan(NamedTuple):
    """An intent whose process died.

    Attributes:
        id: Its id.

        owner: The process that declared it.

        moved: How many files its process had left before it wrote it here.

        declared_unix_ns: When it was declared, by its stamp.

        note: What its process wanted known of it.
    """

    id: str
    owner: str
    moved: int
    declared_unix_ns: int
    note: bytes


class OpenIntents:
    """The intents of a process whose outcome is not on disk. The commit lock guards them.

    Args:
        owner: The process: no other one, and no other life, calls itself so.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._open: dict[str, tuple[int, bytes]] = {}
        self._left_behind: set[str] = set()
        # Ended before they were declared: what a loop hands over can be overtaken.
        self._over: set[str] = set()
        self._moved = 0
        self._is_new_file = False

    def has_something_in(self, entries: Iterable[Entry]) -> bool:
        """Whether a commit of these entries has to write intents."""
        for entry in entries:  # each commit asks: ``any`` of a generator takes three times as long
            if entry.intent is not None:
                return True
        return self._is_new_file

    def write(self, connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
        """Write down what the entries declare and end, inside the caller's transaction."""
        if self._is_new_file:
            for known, (declared_unix_ns, about) in self._open.items():
                self._write(connection, known, 0, declared_unix_ns, about)
        declared: set[str] = set()
        over = set(self._over)
        for entry in entries:
            if entry.intent is None:
                continue
            id_, note = entry.intent
            if note is None:
                if id_ not in declared and id_ not in self._open:
                    over.add(id_)
                self._end(connection, id_, entry.unix_ns)
            elif id_ not in over:
                declared.add(id_)
                self._write(connection, id_, 0, entry.unix_ns, note)

    def _end(self, connection: sqlite3.Connection, id_: str, unix_ns: int) -> None:
        """End an intent; where another file may have it as open, that is kept."""
        found = connection.execute("DELETE FROM intent WHERE id = ?", (id_,)).rowcount
        if not found or id_ in self._left_behind:
            self._write(connection, id_, 1, unix_ns, b"")

    def _write(
        self, connection: sqlite3.Connection, id_: str, ended: int, unix_ns: int, note: bytes
    ) -> None:
        connection.execute(_WRITE, (id_, self._owner, ended, self._moved, unix_ns, note))

    def written(self, entries: Iterable[Entry]) -> None:
        """Take note that a commit of entries happened; harmless if done twice."""
        for entry in entries:
            if entry.intent is None:
                continue
            id_, note = entry.intent
            if note is None:
                if self._open.pop(id_, None) is None:
                    self._over.add(id_)
            elif id_ in self._over:
                self._over.remove(id_)
            else:
                self._open[id_] = (entry.unix_ns, note)
        self._is_new_file = False

    def leave(self, again: Iterable[Entry]) -> None:
        """Take note that the file is left, and that these entries are stored again."""
        self._left_behind |= self._open.keys()
        self._left_behind |= {entry.intent.id for entry in again if entry.intent is not None}
        self._moved += 1
        self._is_new_file = True


# -- for the courier ------------------------------------------------------------


def orphans(connection: sqlite3.Connection, *, owner: str, limit: int = 16) -> list[Orphan]:
    """Open intents of a file that are not those of a living process, oldest first.

    Args:
        owner: The process that asks: its own are not among them.
    """
    rows = connection.execute(
        "SELECT id, owner, moved, declared_unix_ns, note FROM intent "
        "WHERE ended = 0 AND owner != ? ORDER BY declared_unix_ns, id LIMIT ?", (owner, limit),
    )
    return [Orphan(*row) for row in rows]


def known_elsewhere(directory: Path, name: str, found_here: Sequence[Orphan]) -> set[str]:
    """Of which intents another file of the directory knows more: their ids.

    Args:
        name: The slot whose file has them, and is not asked.
    """
    moved = {orphan.id: orphan.moved for orphan in found_here}
    query = f"SELECT id, ended, moved FROM intent WHERE id IN ({', '.join('?' * len(moved))})"
    found: set[str] = set()
    for slot in slots(directory):
        if slot.name == name or not slot.database.exists():
            continue
        # A file of an older format has no intents.
        with contextlib.suppress(SpoolError, sqlite3.Error), looking_at(slot.database) as file:
            rows = file.execute(query, list(moved)).fetchall()
            found.update(id_ for id_, ended, moves in rows if ended or moves > moved[id_])
    return found


def forget(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Remove intents that were told of, inside the caller's transaction."""
    connection.executemany("DELETE FROM intent WHERE id = ?", [(id_,) for id_ in ids])


# -- for salvage ------------------------------------------------------------------


def restore(connection: sqlite3.Connection, rows: Iterable[Sequence[object]]) -> None:
    """Store intents that were read from a broken file, inside the caller's transaction."""
    connection.executemany("INSERT OR IGNORE INTO intent VALUES (?, ?, ?, ?, ?, ?)", rows)
