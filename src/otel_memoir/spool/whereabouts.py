"""What became of one record, by its stream and number: for whoever holds its receipt.

Every file is opened read-only and let go of at once. A stream's records lie in the file
where it began, and after a failover also in others; each number is asked for in each of
them, since a file that was left knows only that another one has it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from otel_memoir.errors import SpoolError
from otel_memoir.spool.directory import slots
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.ledger import ELSEWHERE
from otel_memoir.spool.model import State, Stream
from otel_memoir.spool.schema import is_unused

_COLUMNS = "last_id, stream, first_sequence, last_sequence, state, records, rejected, code, message"


class Whereabouts(NamedTuple):
    """What became of a record.

    Attributes:
        state: A value of ``State``; ``partly rejected``: its batch was taken but for
            some records, and the destination did not say which; ``lost``: it is named by
            a gap; ``unknown``: no file of the directory knows of it.

        code: The last answer to its batch, or the cause of the gap.

        message: What the destination said.
    """

    state: str
    code: str = ""
    message: str = ""


UNKNOWN = Whereabouts("unknown")
PARTLY_REJECTED = "partly rejected"
LOST = "lost"


def whereabouts(directory: Path, stream: Stream, sequence: int) -> Whereabouts:
    """What became of a record, as the spool files of a directory tell.

    A file that cannot be read is passed over: the answer may then be ``unknown``.
    """
    return whereabouts_of_all(directory, [(stream, sequence)])[0]


def whereabouts_of_all(
    directory: Path, wanted: Sequence[tuple[Stream, int]]
) -> list[Whereabouts]:
    """As ``whereabouts``, of many records: each file is opened once."""
    found: dict[int, Whereabouts] = {}
    for slot in slots(directory):
        if len(found) == len(wanted):
            break
        with contextlib.suppress(SpoolError, sqlite3.Error), looking_at(slot.database) as file:
            for place, (stream, sequence) in () if is_unused(file) else enumerate(wanted):
                here = in_file(file, stream, sequence) if place not in found else None
                if here is not None:
                    found[place] = here
    return [found.get(place, UNKNOWN) for place in range(len(wanted))]


def in_file(
    connection: sqlite3.Connection, stream: Stream, sequence: int
) -> Whereabouts | None:
    """What a file knows of a record; ``None`` if it has it not."""
    rows = connection.execute(
        "SELECT id FROM stream WHERE stream_id = ? AND epoch = ? AND sequence >= ? "
        "AND first <= ?", (stream.stream_id, stream.epoch, sequence, sequence),
    ).fetchall()
    for (number,) in rows:
        cause = _cause_of_gap(connection, number, sequence)
        if cause == ELSEWHERE:
            continue
        return _ledgered(connection, number, sequence) or (
            Whereabouts(LOST, cause) if cause else Whereabouts(State.PENDING.value)
        )
    return None


def _cause_of_gap(connection: sqlite3.Connection, number: int, sequence: int) -> str:
    row = connection.execute(
        "SELECT cause FROM gap WHERE stream = ? AND first_sequence <= ? AND last_sequence >= ? "
        "AND at_most = 0 ORDER BY records LIMIT 1", (number, sequence, sequence),
    ).fetchone()
    return str(row[0]) if row else ""


def _ledgered(
    connection: sqlite3.Connection, number: int, sequence: int
) -> Whereabouts | None:
    """What the ledger says; ``None`` if the record is in no batch yet."""
    for row in _candidates(connection, number, sequence):
        _, stream, first, last, state, records, rejected, code, message = row
        if stream == number and first <= sequence <= last:
            if rejected and state == State.DELIVERED.value:
                state = State.REJECTED.value if rejected >= records else PARTLY_REJECTED
            return Whereabouts(state, code, message)
    return None


def _candidates(
    connection: sqlite3.Connection, number: int, sequence: int
) -> Iterator[tuple[int, int, int, int, str, int, int, str, str]]:
    """The batch that has a number, if rows are in the order of their streams; then all of it.

    They are, but for the rows that a failover stored before the new file's own stream.
    """
    found = _by_halving(connection, (number, sequence))
    if found is not None:
        yield found
    yield from connection.execute(
        f"SELECT {_COLUMNS} FROM batch WHERE stream = ? AND first_sequence <= ? "
        "AND last_sequence >= ? AND state != 'split'", (number, sequence, sequence),
    )


def _by_halving(
    connection: sqlite3.Connection, target: tuple[int, int]
) -> tuple[int, int, int, int, str, int, int, str, str] | None:
    """The first batch that does not end before a number: a ledger of 10⁶ takes 20 looks."""
    query = (
        f"SELECT {_COLUMNS} FROM batch WHERE last_id > ? AND state != 'split' "
        "ORDER BY last_id LIMIT 1"
    )
    low, high = 0, connection.execute("SELECT coalesce(max(last_id), 0) FROM batch").fetchone()[0]
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(query, (middle,)).fetchone()
        if row is not None and (row[1], row[3]) < target:
            low = row[0]
        else:
            high = middle
    found: tuple[int, int, int, int, str, int, int, str, str] | None = connection.execute(
        query, (low,)
    ).fetchone()
    return found
