"""What must agree between the tables of a spool file, beyond each record's one state.

``verify`` asks here whether every loss is named by a gap, every refusal counted, every
envelope whole, and every row and ledger row part of a stream that is there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from otel_memoir.errors import SpoolCorruptError
from otel_memoir.spool.checked import envelope_of

_Key = tuple[int, str]


def contradictions(connection: sqlite3.Connection) -> Iterator[str]:
    """What two tables of an open file say differently, a sentence each."""
    yield from _strays(connection)
    yield from _unnamed_losses(connection)
    yield from _refusals(connection)
    yield from _damaged_envelopes(connection)


def _strays(connection: sqlite3.Connection) -> Iterator[str]:
    for table in ("record", "batch", "tally", "gap"):
        for stream, count in connection.execute(
            f"SELECT stream, count(*) FROM {table} WHERE stream NOT IN (SELECT id FROM stream) "
            "GROUP BY stream"
        ):
            yield f"{count} rows of {table} belong to stream {stream}, which is nowhere"
    for number, count in connection.execute(
        "SELECT number, count(*) FROM batch JOIN record ON record.id BETWEEN first_id AND last_id "
        "WHERE state != 'split' AND record.stream != batch.stream GROUP BY number"
    ):
        yield f"batch {number}: {count} of its rows belong to another stream"


def _unnamed_losses(connection: sqlite3.Connection) -> Iterator[str]:
    """Promise 4: what will not be delivered has a gap. Replayed records keep theirs."""
    lost = _sums(
        connection,
        "SELECT stream, state, sum(records) FROM batch WHERE state IN "
        "('quarantined', 'expired', 'evicted', 'discarded') GROUP BY stream, state "
        "UNION ALL SELECT stream, 'rejected', sum(rejected) FROM batch GROUP BY stream",
    )
    named = _sums(connection, "SELECT stream, cause, sum(records) FROM gap GROUP BY stream, cause")
    for (stream, state), records in sorted(lost.items()):
        if named.get((stream, state), 0) < records:
            yield (
                f"stream {stream}: {records} are {state}, gaps name "
                f"{named.get((stream, state), 0)} of them"
            )


def _refusals(connection: sqlite3.Connection) -> Iterator[str]:
    tally = _sums(
        connection, "SELECT stream, name, records FROM tally WHERE name LIKE 'refused:%'"
    )
    gaps = _sums(
        connection,
        "SELECT stream, cause, sum(records) FROM gap WHERE cause LIKE 'refused:%' "
        "GROUP BY stream, cause",
    )
    for stream, name in sorted({*tally, *gaps}):
        said, found = tally.get((stream, name), 0), gaps.get((stream, name), 0)
        if said != found:
            yield f"stream {stream}: the counter says {said} {name}, gaps name {found}"


def _damaged_envelopes(connection: sqlite3.Connection) -> Iterator[str]:
    for (envelope,) in connection.execute("SELECT DISTINCT envelope FROM record").fetchall():
        try:
            envelope_of(connection, envelope)
        except SpoolCorruptError as error:
            rows = _not_set_aside(connection, envelope)
            if rows:
                yield f"envelope {envelope}: {error}; {rows} rows need it"


def _not_set_aside(connection: sqlite3.Connection, envelope: int) -> int:
    """How many rows share an envelope and are not in quarantine as corrupt already."""
    count: int = connection.execute(
        "SELECT count(*) FROM record WHERE envelope = ? AND NOT EXISTS (SELECT 1 FROM batch "
        "WHERE state = 'quarantined' AND code = 'corrupt' "
        "AND record.id BETWEEN first_id AND last_id)", (envelope,),
    ).fetchone()[0]
    return count


def _sums(connection: sqlite3.Connection, sql: str) -> Mapping[_Key, int]:
    return {(stream, name): records for stream, name, records in connection.execute(sql)}
