"""The ledger: one row per batch, from "about to be sent" to what became of it.

A batch is closed on disk before it is first sent, so that it is sent again with
the same bytes. Every change of state and the counter that goes with it are one
transaction. All functions run inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from otel_memoir.spool.model import OUTCOMES, Batch, Hold, State, Stream

_COLUMNS = (
    "number, stream, first_id, last_id, first_sequence, last_sequence, records, bytes, "
    "attempts, failures, suspect, lane, next_attempt_unix_ns"
)
_NAMES = tuple(_COLUMNS.split(", "))


def _batches(rows: Iterable[Sequence[object]]) -> list[Batch]:
    return [Batch(**dict(zip(_NAMES, row))) for row in rows]  # type: ignore[arg-type]  # SQL


def next_unledgered(
    connection: sqlite3.Connection, after_id: int, before_batch: int, records_max: int
) -> Batch | None:
    """The next rows that no ledger row names yet, as the batch they were appended to.

    Args:
        connection: Any connection that sees the committed rows.

        after_id: The last row that the ledger names.

        before_batch: Rows of this batch and later ones are still being appended.

        records_max: Most records in a batch that is appended to now.
    """
    first = connection.execute(
        "SELECT id, sequence, stream, batch FROM record WHERE id > ? AND batch < ? "
        "ORDER BY id LIMIT 1", (after_id, before_batch),
    ).fetchone()
    if first is None:
        return None
    first_id, first_sequence, stream, number = first
    last_id = first_id + records_max - 1
    # A batch has one number: all its rows go into one ledger row, though it was appended to when
    # ``records_max`` was larger.
    while connection.execute(
        "SELECT 1 FROM record WHERE id = ? AND stream = ? AND batch = ?",
        (last_id + 1, stream, number),
    ).fetchone():
        last_id += records_max
    # Summed by SQLite: to fetch 4,096 rows of which half belong to the batch took longer
    # than to read their payloads.
    last_id, last_sequence, records, size = connection.execute(
        "SELECT max(id), max(sequence), count(*), sum(size) FROM record "
        "WHERE id BETWEEN ? AND ? AND stream = ? AND batch = ?",
        (first_id, last_id, stream, number),
    ).fetchone()
    return Batch(
        number=number, stream=stream, first_id=first_id, last_id=last_id,
        first_sequence=first_sequence, last_sequence=last_sequence, records=records, bytes=size,
    )


def open_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write the ledger row of a batch that is about to be sent or settled."""
    connection.execute(
        f"INSERT INTO batch ({_COLUMNS}, state) VALUES ({', '.join('?' * len(_NAMES))}, 'pending')",
        [getattr(batch, name) for name in _NAMES],
    )


def waiting(
    connection: sqlite3.Connection, *, lane: str, limit: int = 64
) -> list[Batch]:
    """Batches that were tried and wait, oldest first."""
    return _batches(
        connection.execute(
            f"SELECT {_COLUMNS} FROM batch WHERE state = 'pending' AND lane = ? "
            "ORDER BY first_id LIMIT ?", (lane, limit),
        )
    )


def has_work(connection: sqlite3.Connection, ledgered_id: int, *, owner: str) -> bool:
    """Whether anything of a file waits to be sent, or to be told.

    Args:
        owner: The process that asks: its open intents are its own business.
    """
    return bool(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM record WHERE id > ?) "
            "OR EXISTS (SELECT 1 FROM batch WHERE state = 'pending') "
            "OR EXISTS (SELECT 1 FROM gap WHERE told = 0) "
            "OR EXISTS (SELECT 1 FROM intent WHERE ended = 0 AND owner != ?)",
            (ledgered_id, owner),
        ).fetchone()[0]
    )


def waits(connection: sqlite3.Connection, batch: Batch) -> bool:
    """Whether a batch still waits; it may have been evicted since it was chosen."""
    found = connection.execute(
        "SELECT 1 FROM batch WHERE number = ? AND state = 'pending'", (batch.number,)
    ).fetchone()
    return found is not None


def note_attempt(connection: sqlite3.Connection, batch: Batch) -> bool:
    """Write down, before it is sent, that a batch is being sent.

    It counts as ambiguous until its answer says otherwise: after a crash nobody
    knows what the answer was.

    Returns:
        Whether the batch waits; it may have been evicted since it was chosen.
    """
    found = connection.execute(
        "UPDATE batch SET attempts = attempts + 1, ambiguous = ambiguous + 1 "
        "WHERE number = ? AND state = 'pending'", (batch.number,),
    )
    return found.rowcount == 1


def note_clear_answer(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write down that the last attempt's answer left no doubt about who has the records.

    Once: what a slow disk carried out after all is written a second time.
    """
    connection.execute(
        "UPDATE batch SET ambiguous = ambiguous - 1 WHERE number = ? AND state = 'pending'",
        (batch.number,),
    )


def postpone(
    connection: sqlite3.Connection,
    batch: Batch,
    *,
    until_unix_ns: int,
    failed: bool,
    suspect: int,
    lane: str,
    code: str,
    message: str,
) -> None:
    """Keep a batch for later, with the reason."""
    connection.execute(
        "UPDATE batch SET failures = failures + ?, suspect = ?, lane = ?, "
        "next_attempt_unix_ns = ?, code = ?, message = ? WHERE number = ?",
        (int(failed), suspect, lane, until_unix_ns, code, message, batch.number),
    )


def settle(
    connection: sqlite3.Connection,
    batch: Batch,
    state: State,
    *,
    unix_ns: int,
    rejected: int = 0,
    code: str = "",
    message: str = "",
) -> None:
    """Write down what became of a batch, together with the counters.

    Args:
        rejected: For a delivered batch: how many of its records the server said
            it did not take. Which ones, OTLP does not say.
    """
    rejected = min(rejected, batch.records)
    connection.execute(
        "UPDATE batch SET state = ?, rejected = ?, settled_unix_ns = ?, code = ?, message = ? "
        "WHERE number = ? AND state IN ('pending', 'quarantined')",
        (state.value, rejected, unix_ns, code, message, batch.number),
    )
    if connection.execute("SELECT changes()").fetchone() != (1,):
        return
    count(connection, batch.stream, state.value, batch.records - rejected, batch.bytes)
    if rejected:
        count(connection, batch.stream, State.REJECTED.value, rejected, 0)


def reopen(connection: sqlite3.Connection, batch: Batch) -> None:
    """Make a quarantined batch wait again."""
    connection.execute(
        "UPDATE batch SET state = 'pending', failures = 0, suspect = 0, lane = 'main', "
        "next_attempt_unix_ns = 0, settled_unix_ns = 0 WHERE number = ?", (batch.number,),
    )
    uncount_quarantined(connection, batch)


def uncount_quarantined(connection: sqlite3.Connection, batch: Batch) -> None:
    """Take a batch out of the quarantine's counter, since it enters another state."""
    count(connection, batch.stream, State.QUARANTINED.value, -batch.records, -batch.bytes)


def count(connection: sqlite3.Connection, stream: int, name: str, records: int, size: int) -> None:
    """Add to a counter of a stream."""
    connection.execute(
        "INSERT INTO tally VALUES (?, ?, ?, ?) ON CONFLICT (stream, name) DO UPDATE SET "
        "records = records + excluded.records, bytes = bytes + excluded.bytes",
        (stream, name, records, size),
    )


def split(connection: sqlite3.Connection, batch: Batch, parts: Sequence[Batch]) -> None:
    """Replace a batch by parts that cover the same rows; each is tried by itself."""
    connection.execute(
        "UPDATE batch SET state = 'split', records = 0, bytes = 0, pruned = 1 WHERE number = ?",
        (batch.number,),
    )
    for part in parts:
        open_batch(connection, part)


def sizes(connection: sqlite3.Connection, batch: Batch) -> list[tuple[int, int, int]]:
    """The (id, sequence, bytes) of each stored row of a batch, in order."""
    return connection.execute(
        "SELECT id, sequence, size FROM record WHERE id BETWEEN ? AND ? ORDER BY id",
        (batch.first_id, batch.last_id),
    ).fetchall()


def youngest_unix_ns(connection: sqlite3.Connection, batch: Batch) -> int:
    """When the last record of a batch was accepted."""
    row = connection.execute(
        "SELECT accepted_unix_ns FROM record WHERE id = ?", (batch.last_id,)
    ).fetchone()
    return int(row[0]) if row else 2**63 - 1


def oldest_kept(connection: sqlite3.Connection, state: str) -> tuple[Batch, int] | None:
    """The oldest batch in a state whose payloads are still there, and when it was settled."""
    row = connection.execute(
        f"SELECT settled_unix_ns, {_COLUMNS} FROM batch WHERE pruned = 0 AND state = ? "
        "ORDER BY first_id LIMIT 1", (state,),
    ).fetchone()
    return (_batches([row[1:]])[0], row[0]) if row else None


_SEEN_AT_ONCE = 64
Run = list[Sequence[int]]
"""Ledger rows that follow each other."""

_SUMMED = ("records", "bytes", "rejected", "attempts", "ambiguous")


def pruned_runs(connection: sqlite3.Connection, from_id: int) -> tuple[list[Run], int]:
    """Find delivered neighbours without payloads, a bounded number of rows at a time.

    A service that sends a small batch each second would otherwise keep 30 million
    ledger rows a year. A batch of which some was rejected stays as it is: merged, it would
    let a record of a neighbour, which was delivered, be called partly rejected.

    Args:
        from_id: Where to go on, as it was returned; 0 to begin.

    Returns:
        The runs that ``merge`` can make one row of, and where to go on; 0 after the last.
    """
    rows = connection.execute(
        "SELECT number, stream, first_id, last_id, last_sequence, "
        f"{', '.join(_SUMMED)} FROM batch WHERE pruned = 1 AND state = 'delivered' "
        "AND rejected = 0 AND first_id >= ? ORDER BY first_id LIMIT ?", (from_id, _SEEN_AT_ONCE),
    ).fetchall()
    runs: list[Run] = []
    for row in rows:
        if not runs or row[1] != runs[-1][-1][1] or row[2] != runs[-1][-1][3] + 1:
            runs.append([])
        runs[-1].append(row)
    # The last run may go on, so the next look begins with it.
    go_on = int(runs[-1][0][2]) if len(rows) == _SEEN_AT_ONCE else 0
    return [run for run in runs if len(run) > 1], go_on


def merge(connection: sqlite3.Connection, run: Run) -> None:
    """Make one ledger row of a run of neighbours."""
    sums = [sum(column) for column in list(zip(*run))[5:]]
    connection.execute(
        f"UPDATE batch SET last_id = ?, last_sequence = ?, "
        f"{', '.join(f'{name} = ?' for name in _SUMMED)} WHERE number = ?",
        (run[-1][3], run[-1][4], *sums, run[0][0]),
    )
    connection.executemany("DELETE FROM batch WHERE number = ?", [(row[0],) for row in run[1:]])


def settled_bytes(connection: sqlite3.Connection) -> int:
    """Payload bytes of all records that are in a final state."""
    marks = ", ".join("?" * len(OUTCOMES))
    return int(
        connection.execute(
            f"SELECT coalesce(sum(bytes), 0) FROM tally WHERE name IN ({marks})", OUTCOMES
        ).fetchone()[0]
    )


ELSEWHERE = "elsewhere"
"""The cause of a gap that is no loss: another file has these numbers, or names them."""


def note_elsewhere(
    connection: sqlite3.Connection, stream: int, runs: Iterable[tuple[int, int]], *, unix_ns: int
) -> None:
    """Write down that another file has these numbers of a stream, or tells of them."""
    connection.executemany(
        "INSERT INTO gap (stream, cause, records, first_sequence, last_sequence, "
        "noticed_unix_ns, told) VALUES (?, ?, ?, ?, ?, ?, 1)",
        [(stream, ELSEWHERE, last - first + 1, first, last, unix_ns) for first, last in runs],
    )


def note_gap(
    connection: sqlite3.Connection,
    stream: int,
    cause: str,
    records: int,
    *,
    unix_ns: int,
    first_sequence: int | None = None,
    last_sequence: int | None = None,
    at_most: bool = False,
    message: str = "",
) -> None:
    """Write down a loss, to be told to the destination as an event."""
    connection.execute(
        "INSERT INTO gap (stream, cause, records, first_sequence, last_sequence, at_most, "
        "message, noticed_unix_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (stream, cause, records, first_sequence, last_sequence, at_most, message, unix_ns),
    )


class Gap(NamedTuple):
    """A loss, named: what a ``memoir.delivery.gap`` event says."""

    id: int
    stream: Stream
    cause: str
    records: int
    first_sequence: int | None
    last_sequence: int | None
    at_most: bool
    message: str
    noticed_unix_ns: int


def untold_gaps(connection: sqlite3.Connection, limit: int = 16) -> list[Gap]:
    """Losses that no event tells of yet, oldest first."""
    rows = connection.execute(
        "SELECT g.id, s.stream_id, s.epoch, g.cause, g.records, g.first_sequence, "
        "g.last_sequence, g.at_most, g.message, g.noticed_unix_ns FROM gap g "
        "JOIN stream s ON s.id = g.stream WHERE g.told = 0 ORDER BY g.id LIMIT ?", (limit,),
    )
    return [
        Gap(id_, Stream(stream_id, epoch), cause, records, first, last, bool(at_most), text, ns)
        for id_, stream_id, epoch, cause, records, first, last, at_most, text, ns in rows
    ]


def recent_gaps(connection: sqlite3.Connection, since_unix_ns: int) -> dict[str, int]:
    """Records lost since then, by cause; of the last thousand losses, so that it takes no time."""
    return dict(connection.execute(
        "SELECT cause, sum(records) FROM (SELECT * FROM gap ORDER BY id DESC LIMIT 1000) "
        "WHERE noticed_unix_ns >= ? AND cause <> ? GROUP BY cause", (since_unix_ns, ELSEWHERE),
    ).fetchall())


def note_told(connection: sqlite3.Connection, gaps: Iterable[Gap]) -> None:
    """Write down that events tell of these gaps."""
    connection.executemany("UPDATE gap SET told = 1 WHERE id = ?", [(gap.id,) for gap in gaps])


def set_hold(connection: sqlite3.Connection, hold: Hold | None, not_before_unix_ns: int) -> None:
    """Keep, over a restart, why and until when delivery stands still."""
    held = hold or Hold(since_unix_ns=0, code="", message="", hint="")
    connection.execute(
        "UPDATE courier SET held_since_unix_ns = ?, not_before_unix_ns = ?, code = ?, "
        "message = ?, hint = ?",
        (held.since_unix_ns, not_before_unix_ns, held.code, held.message, held.hint),
    )


def end_hold(connection: sqlite3.Connection) -> None:
    """Write down that delivery goes on. A file can have a hold that a dead process left in it."""
    if read_hold(connection) != (None, 0):
        set_hold(connection, None, 0)


def read_hold(connection: sqlite3.Connection) -> tuple[Hold | None, int]:
    """What ``set_hold`` kept."""
    since, not_before, code, message, hint = connection.execute(
        "SELECT held_since_unix_ns, not_before_unix_ns, code, message, hint FROM courier"
    ).fetchone()
    hold = Hold(since_unix_ns=since, code=code, message=message, hint=hint) if since else None
    return hold, not_before
