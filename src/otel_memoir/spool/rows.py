"""Reading what spool files hold, record by record, without disturbing anyone.

A read is short, page by page, because a long one keeps the writer's log from being taken
over into the file. So a file that is in use is read at several moments: a record that is
delivered and pruned in between is told once, or as absent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from otel_memoir.errors import SpoolCorruptError
from otel_memoir.spool.checked import envelope_of, unpack
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.model import State, Stream
from otel_memoir.spool.quarantine import said_in_words
from otel_memoir.spool.schema import is_unused

PAGE_ROWS = 1000

_PAGE = (
    "SELECT r.id, s.stream_id, s.epoch, r.sequence, r.accepted_unix_ns, r.envelope, r.packed, "
    "r.crc, r.payload FROM record r JOIN stream s ON s.id = r.stream WHERE r.id > ? "
    "ORDER BY r.id LIMIT ?"
)
BECAME = (
    "CASE WHEN b.state = 'delivered' AND b.rejected > 0 AND b.rejected = b.records "
    "THEN 'rejected' ELSE b.state END"
)
"""What became of the records of a batch ``b``, where OTLP says it of each of them."""

_AT = (
    "SELECT r.id, s.stream_id, s.epoch, r.sequence, r.accepted_unix_ns, r.envelope, r.packed, "
    "r.crc, r.payload, (SELECT CASE WHEN b.first_id <= r.id "
    f"THEN {BECAME} END FROM batch b "
    "WHERE b.last_id >= r.id AND b.pruned = 0 AND b.state != 'split' ORDER BY b.last_id LIMIT 1) "
    "FROM record r JOIN stream s ON s.id = r.stream WHERE r.id IN ({marks})"
)
_AT_ONCE = 500
_STATES = (
    f"SELECT b.first_id, b.last_id, {BECAME} FROM batch b WHERE b.pruned = 0 "
    "AND b.state != 'split' AND b.last_id >= ? AND b.first_id <= ?"
)
_ABSENT = (
    "SELECT s.stream_id, s.epoch, g.first_sequence, g.last_sequence, g.cause FROM gap g "
    "JOIN stream s ON s.id = g.stream WHERE g.first_sequence IS NOT NULL UNION ALL "
    "SELECT s.stream_id, s.epoch, b.first_sequence, b.last_sequence, b.state || ', pruned' "
    "FROM batch b JOIN stream s ON s.id = b.stream WHERE b.pruned = 1 AND b.state != 'split'"
)


@dataclass(frozen=True, kw_only=True)
class StoredRecord:
    """A record in a spool file.

    Attributes:
        stream: Its stream.

        sequence: Its number in the stream.

        state: What became of it so far.

        stamped_unix_ns: The time of its stamp, in unix ns.

        envelope: Its resource and scope, as ``request.split_envelope`` takes them.

        payload: The encoded record with its stamps.

        problem: Why there is neither, if it is damaged.
    """

    stream: Stream
    sequence: int
    state: State
    stamped_unix_ns: int
    envelope: bytes = b""
    payload: bytes = b""
    problem: str = ""


class Absence(NamedTuple):
    """Consecutive numbers of a stream that its file does not hold, and why."""

    stream: Stream
    first_sequence: int
    last_sequence: int
    cause: str


def stored_records(path: Path) -> Iterator[StoredRecord]:
    """The records of a file in the order in which they were stored, delivered ones included.

    Raises:
        SpoolError: The file cannot be read.
    """
    last_id = 0
    while True:
        page, last_id = _page(path, last_id)
        if not page:
            return
        yield from page


def records_at(path: Path, ids: Sequence[int]) -> dict[int, StoredRecord]:
    """The records of some rows of a file, as they are now; what is gone is left out.

    Raises:
        SpoolError: The file cannot be read.
    """
    found: dict[int, StoredRecord] = {}
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        with said_in_words(path), looking_at(path) as connection:
            if is_unused(connection):
                return {}
            query = _AT.format(marks=", ".join("?" * len(some)))
            rows = connection.execute(query, some).fetchall()
            envelopes = _envelopes(connection, {row[5] for row in rows})
        for *row, state in rows:
            found[row[0]] = _stored(row, state or State.PENDING, envelopes)
    return found


def _page(path: Path, after_id: int) -> tuple[list[StoredRecord], int]:
    with said_in_words(path), looking_at(path) as connection:
        if is_unused(connection):
            return [], after_id
        rows = connection.execute(_PAGE, (after_id, PAGE_ROWS)).fetchall()
        if not rows:
            return [], after_id
        states = connection.execute(_STATES, (rows[0][0], rows[-1][0])).fetchall()
        envelopes = _envelopes(connection, {row[5] for row in rows})
    return [_stored(row, _state_in(states, row[0]), envelopes) for row in rows], rows[-1][0]


def _state_in(states: Sequence[tuple[int, int, str]], id_: int) -> str:
    return next((s for first, last, s in states if first <= id_ <= last), State.PENDING)


def _envelopes(
    connection: sqlite3.Connection, numbers: Iterable[int]
) -> dict[int, bytes | SpoolCorruptError]:
    found: dict[int, bytes | SpoolCorruptError] = {}
    for number in numbers:
        try:
            found[number] = envelope_of(connection, number)
        except SpoolCorruptError as error:
            found[number] = error
    return found


def _stored(
    row: Sequence[Any], state: str, envelopes: Mapping[int, bytes | SpoolCorruptError]
) -> StoredRecord:
    _, stream_id, epoch, sequence, unix_ns, envelope_id, packed, crc, payload = row
    known: dict[str, Any] = {
        "stream": Stream(stream_id, epoch), "sequence": sequence, "state": State(state),
        "stamped_unix_ns": unix_ns,
    }
    envelope = envelopes[envelope_id]
    if not isinstance(envelope, bytes):
        return StoredRecord(**known, problem=str(envelope))
    try:
        whole = unpack(sequence, packed, crc, payload)
    except SpoolCorruptError as error:
        return StoredRecord(**known, problem=str(error))
    return StoredRecord(**known, envelope=envelope, payload=whole)


def absences(path: Path) -> list[Absence]:
    """The numbers that a file knows of and does not hold: lost and told of, or settled and pruned.

    Raises:
        SpoolError: The file cannot be read.
    """
    with said_in_words(path), looking_at(path) as connection:
        if is_unused(connection):
            return []
        rows = connection.execute(_ABSENT).fetchall()
    return [
        Absence(Stream(stream_id, epoch), first, last, cause)
        for stream_id, epoch, first, last, cause in rows
    ]
