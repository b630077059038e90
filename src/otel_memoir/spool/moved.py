"""Rows that a failed file and its successor may both have: they count in the successor.

A commit that raised can still be durable after a crash (an EIO of fdatasync, seen), so
what it held is stored again in a new file, which lists it: a ``moved`` stream, and the
files that it was moved from. Whoever opens the old file next takes those rows out of it.

What this code refuses: to touch a row that was sent from the old file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SpoolError
from otel_memoir.spool import ledger
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import Slot, slots
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.model import Entry, Life, Refused, Stream

MOVED = "moved"
"""The counter of rows that were taken out of a file because another one has them."""


class Moved(NamedTuple):
    """Numbers of a stream that another file took over."""

    stream_id: str
    epoch: int
    first: int
    last: int

    def has(self, stream: Stream, sequence: int) -> bool:
        """Whether a number of a stream is among them."""
        return (self.stream_id, self.epoch) == (stream.stream_id, stream.epoch) and (
            self.first <= sequence <= self.last
        )


def give_away_moved(file: SpoolFile) -> None:
    """Take the rows out of a file that others list as moved from it, in one transaction.

    Only a file whose writer did not end by itself can have any, and only once: its
    lives are ended by whoever opens it.
    """
    if file.lock is None or not file.has_lost_streams():
        return
    found = taken_over(file.lock.slot.directory, file.lock.slot.name)
    if found:
        with transaction(file.connection):
            # The newest first: of each stream, the rows at the end of the file are looked at.
            given = sum(_give_away(file.connection, moved) for moved in reversed(found))
        file.count_rows()
        if given:
            complaints.say("moved", f"{given} rows of {file.path} count in the file they moved to")


def taken_over(directory: Path, origin: str) -> list[Moved]:
    """What the files of a directory list as moved from one of them; by its slot's name."""
    return [moved for slot in slots(directory) if slot.name != origin
            for moved in _taken_over(slot, origin)]


def _taken_over(slot: Slot, origin: str) -> list[Moved]:
    query = (
        "SELECT stream_id, epoch, first, sequence FROM stream WHERE ended = 'moved' "
        "AND instr(' ' || moved_from || ' ', ?) > 0"
    )
    with contextlib.suppress(SpoolError, sqlite3.Error), looking_at(slot.database) as connection:
        return [Moved(*row) for row in connection.execute(query, (f" {origin} ",))]
    return []


def _give_away(connection: sqlite3.Connection, moved: Moved) -> int:
    row = connection.execute(
        "SELECT id, began_unix_ns FROM stream WHERE stream_id = ? AND epoch = ? "
        "ORDER BY id DESC LIMIT 1",
        (moved.stream_id, moved.epoch),
    ).fetchone()
    if row is None:
        return 0
    stream, began_unix_ns = row
    # Such a batch was never sent: it is sent only once its rows are fsynced, and what was
    # fsynced is not stored again.
    connection.execute(
        "DELETE FROM batch WHERE stream = ? AND state = 'pending' AND last_sequence >= ?",
        (stream, moved.first),
    )
    rows = _unsent_in(connection, stream, moved)
    connection.executemany("DELETE FROM record WHERE id = ?", [(id_,) for id_, *_ in rows])
    size = sum(size for *_, size in rows)
    ledger.note_elsewhere(connection, stream, _runs(rows), unix_ns=began_unix_ns)
    connection.execute(
        # What this file took over from another one itself, it goes on listing.
        "UPDATE stream SET ended = CASE ended WHEN 'moved' THEN ended ELSE 'moved away' END, "
        "reserved = sequence, accepted = accepted - ?, accepted_bytes = accepted_bytes - ? "
        "WHERE id = ?", (len(rows), size, stream),
    )
    ledger.count(connection, stream, MOVED, len(rows), size)
    return len(rows)


def _unsent_in(
    connection: sqlite3.Connection, stream: int, moved: Moved
) -> list[tuple[int, int, int]]:
    """The (id, number, bytes) of the rows that moved and no batch has, the newest first."""
    found = []
    for id_, owner, sequence, size in connection.execute(
        "SELECT id, stream, sequence, size FROM record WHERE id > "
        "(SELECT coalesce(max(last_id), 0) FROM batch) ORDER BY id DESC"
    ):
        if owner != stream or sequence < moved.first:
            break
        if sequence <= moved.last:
            found.append((id_, sequence, size))
    return found


def _runs(rows: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The numbers of rows, the newest first, as runs without a hole."""
    runs: list[tuple[int, int]] = []
    for _, sequence, _ in rows:
        if runs and runs[-1][0] == sequence + 1:
            runs[-1] = (sequence, runs[-1][1])
        else:
            runs.append((sequence, sequence))
    return runs


def holes_left(
    life: Life, entries: Sequence[Entry], lost: Sequence[tuple[Life, int, int, Refused]]
) -> Iterator[tuple[int, int]]:
    """The numbers of a life, from its first entry on, that the file it leaves has named.

    Those that are lost and not yet written down are named in the next file.
    """
    runs = [(entry.sequence, entry.sequence) for entry in entries if entry.life is life]
    runs += [(first, last) for owner, first, last, _ in lost if owner is life]
    expected = runs[0][0]
    for first, last in sorted(runs):
        if first > expected:
            yield expected, first - 1
        expected = max(expected, last + 1)
    if expected <= life.stored:
        yield expected, life.stored
