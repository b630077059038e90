"""The quarantine: batches that the destination refuses for good, kept for a person.

Promises: looking changes nothing. To replay or to discard takes the slot, so it is
never done under a process that writes; each is one transaction with its counters.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_memoir.errors import SpoolCorruptError, SpoolError
from otel_memoir.spool import ledger
from otel_memoir.spool.checked import unpack
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import Slot, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.model import Batch, State, Stream
from otel_memoir.spool.recovery import open_held
from otel_memoir.spool.upkeep import give_up

_FIELDS = (
    "number", "stream", "first_id", "last_id", "first_sequence", "last_sequence", "records",
    "bytes", "attempts",
)
_SELECT = (
    f"SELECT s.stream_id, s.epoch, b.code, b.message, b.settled_unix_ns, "
    f"{', '.join(f'b.{name}' for name in _FIELDS)} FROM batch b JOIN stream s "
    "ON s.id = b.stream WHERE b.state = 'quarantined'"
)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A batch in quarantine, and why.

    Attributes:
        batch: The batch; its number is unique in its file.

        stream: The stream of its records.

        code: The answer that put it there, or ``corrupt``.

        message: What the destination, or the check, said.

        since_unix_ns: Since when it is there.
    """

    batch: Batch
    stream: Stream
    code: str
    message: str
    since_unix_ns: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A row of a quarantined batch; ``problem`` says why there is no payload."""

    sequence: int
    envelope: bytes = b""
    payload: bytes = b""
    problem: str = ""


def quarantined(path: Path) -> list[Quarantined]:
    """The batches of a file that are in quarantine, oldest first.

    Raises:
        SpoolError: The file cannot be read.
    """
    with said_in_words(path), looking_at(path) as connection:
        return _quarantined(connection)


def _quarantined(connection: sqlite3.Connection, number: int | None = None) -> list[Quarantined]:
    rows = connection.execute(
        f"{_SELECT} AND b.number = coalesce(?, b.number) ORDER BY b.first_id", (number,)
    ).fetchall()
    return [
        Quarantined(
            batch=Batch(**dict(zip(_FIELDS, values))), stream=Stream(stream_id, epoch),
            code=code, message=message, since_unix_ns=since,
        )
        for stream_id, epoch, code, message, since, *values in rows
    ]


def kept_rows(path: Path, batch: Batch) -> list[Kept]:
    """The rows of a batch as they were stored, each checked against its checksum.

    Raises:
        SpoolError: The file cannot be read.
    """
    with said_in_words(path), looking_at(path) as connection:
        rows = connection.execute(
            "SELECT r.sequence, r.packed, r.crc, r.payload, e.bytes FROM record r "
            "LEFT JOIN envelope e ON e.id = r.envelope WHERE r.id BETWEEN ? AND ? ORDER BY r.id",
            (batch.first_id, batch.last_id),
        ).fetchall()
    return [_kept(*row) for row in rows]


def _kept(sequence: int, packed: int, crc: int, payload: bytes, envelope: bytes | None) -> Kept:
    try:
        whole = unpack(sequence, packed, crc, payload)
    except SpoolCorruptError as error:
        return Kept(sequence=sequence, problem=str(error))
    if envelope is None:
        return Kept(sequence=sequence, problem="its envelope is missing")
    return Kept(sequence=sequence, envelope=envelope, payload=whole)


def replay(slot: Slot, number: int) -> Quarantined:
    """Make a quarantined batch wait to be sent again; return what it was.

    On return it is pending, on disk. It is sent by the next process that takes the
    slot, or by ``otel-memoir drain``.

    Raises:
        SpoolError: A living process holds the file, there is no such batch in
            quarantine, or its rows are damaged and cannot be sent.
    """
    with _taken(slot) as file:
        found = _one(file, number)
        if found.code == "corrupt":
            raise SpoolError(
                "replay batch", target=number, cause="its rows are not what was written",
                hint="They can never be sent; discard it to be rid of it.",
            )
        with transaction(file.connection):
            ledger.reopen(file.connection, found.batch)
        return found


def discard(slot: Slot, number: int, *, unix_ns: int) -> Quarantined:
    """Give a quarantined batch up for good; return what it was.

    On return its payloads are deleted, it counts as discarded, and a gap says so.

    Args:
        slot: Where its file is.

        number: The batch.

        unix_ns: The time, for the ledger.

    Raises:
        SpoolError: As ``replay``.
    """
    with _taken(slot) as file:
        found = _one(file, number)
        connection, batch = file.connection, found.batch
        with transaction(connection):
            ledger.uncount_quarantined(connection, batch)
            give_up(
                connection, batch, State.DISCARDED, unix_ns=unix_ns, code=found.code,
                message="discarded by an operator",
            )
            connection.execute(
                "DELETE FROM record WHERE id BETWEEN ? AND ?", (batch.first_id, batch.last_id)
            )
            connection.execute("UPDATE batch SET pruned = 1 WHERE number = ?", (number,))
        return found


def _one(file: SpoolFile, number: int) -> Quarantined:
    found = _quarantined(file.connection, number)
    if not found:
        raise SpoolError(
            "find batch", target=number, cause=f"it is not in the quarantine of {file.path}",
            hint="See `otel-memoir quarantine list`.",
        )
    return found[0]


@contextlib.contextmanager
def _taken(slot: Slot) -> Iterator[SpoolFile]:
    """Hold a slot and its open file for the block."""
    if not slot.database.is_file():
        raise SpoolError("open", target=slot.database, cause="there is no such file")
    lock = try_lock(slot)
    if lock is None:
        raise SpoolError(
            "write to", target=slot.database, cause="a living process holds it",
            hint="Stop that process, or wait until it ends; then do this again.",
        )
    try:
        with said_in_words(slot.database), contextlib.closing(open_held(lock)) as file:
            yield file
    finally:
        lock.release()


@contextlib.contextmanager
def said_in_words(path: Path) -> Iterator[None]:
    """Turn what SQLite raises in the block into a ``SpoolError`` about ``path``."""
    try:
        yield
    except sqlite3.Error as error:
        raise SpoolError(
            "use", target=path, cause=error, hint="See `otel-memoir verify`."
        ) from error


def trouble(path: Path) -> tuple[str, str]:
    """The code and message of the last answer to what waits; empty if there was none.

    Raises:
        SpoolError: The file cannot be read.
    """
    with said_in_words(path), looking_at(path) as connection:
        row = connection.execute(
            "SELECT code, message FROM batch WHERE state = 'pending' AND code != '' "
            "ORDER BY first_id LIMIT 1"
        ).fetchone()
    return (row[0], row[1]) if row else ("", "")
