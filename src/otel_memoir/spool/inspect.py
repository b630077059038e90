"""Looking at spool files without disturbing anyone: living, dead or copied.

Everything here opens a file read-only and lets go of it at once. Final outcomes come from
the counters, which change in one transaction with the ledger, and what waits from ledger
and rows: a status takes no longer when the ledger is long. ``verify`` trusts no counter.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from otel_memoir.errors import SpoolError
from otel_memoir.spool import schema
from otel_memoir.spool.connection import open_reader
from otel_memoir.spool.directory import Slot, broken_files, is_held, slots
from otel_memoir.spool.ledger import read_hold
from otel_memoir.spool.model import OUTCOMES, SpoolStatus, Totals
from otel_memoir.spool.upkeep import bytes_on_disk

_REFUSED = "refused:"

_ASIDE = {
    False: "broken: it was moved aside, whole; the next process here salvages what can be read",
    True: "broken: it was moved aside, whole; what can be read of it went on in another file",
}


@contextlib.contextmanager
def looking_at(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a spool file to look at it, in one consistent snapshot.

    It may have no tables yet (``schema.is_unused``).

    Raises:
        SpoolError: It is missing, not a spool file, or of a newer version.
    """
    if not path.is_file():
        raise SpoolError("look at", target=path, cause="there is no such file")
    with contextlib.closing(open_reader(path)) as connection:
        connection.execute("BEGIN")
        if not schema.is_unused(connection):
            schema.check_readable(connection, path)
        yield connection


def status_of_directory(
    directory: Path, *, wall_ns: Callable[[], int] = time.time_ns
) -> list[SpoolStatus]:
    """The status of every spool file of a directory, broken ones included."""
    found = [status_of_slot(slot, wall_ns=wall_ns) for slot in slots(directory)]
    for path in broken_files(directory):
        found.append(
            SpoolStatus(
                name=path.stem, path=str(path), alive=False, spool_bytes=bytes_on_disk(path),
                problem=_ASIDE[path.name.startswith("salvaged")],
            )
        )
    return found


def status_of_slot(slot: Slot, *, wall_ns: Callable[[], int] = time.time_ns) -> SpoolStatus:
    """The status of one slot's file; a file that cannot be read says why."""
    alive = is_held(slot)
    try:
        with looking_at(slot.database) as connection:
            if schema.is_unused(connection):
                return SpoolStatus(name=slot.name, path=str(slot.database), alive=alive)
            return status_of(
                connection, name=slot.name, path=slot.database, alive=alive, now_ns=wall_ns()
            )
    except (sqlite3.Error, SpoolError) as error:
        return SpoolStatus(
            name=slot.name, path=str(slot.database), alive=alive, problem=str(error),
            spool_bytes=bytes_on_disk(slot.database),
        )


def status_of_file(path: Path, *, wall_ns: Callable[[], int] = time.time_ns) -> SpoolStatus:
    """The status of a file, be it a slot's or a copy under any name.

    Raises:
        SpoolError: It is no slot's, and cannot be read.
    """
    for slot in slots(path.parent):
        if slot.database == path:
            return status_of_slot(slot, wall_ns=wall_ns)
    try:
        with looking_at(path) as connection:
            return status_of(
                connection, name=path.stem, path=path, alive=False, now_ns=wall_ns()
            )
    except sqlite3.Error as error:
        raise SpoolError(
            "use", target=path, cause=error, hint="See `otel-memoir verify`."
        ) from error


def status_of(
    connection: sqlite3.Connection, *, name: str, path: Path | str, alive: bool, now_ns: int
) -> SpoolStatus:
    """The status of an open file, from any connection to it."""
    hold, _ = read_hold(connection)
    return SpoolStatus(
        name=name, path=str(path), alive=alive, totals=totals(connection), hold=hold,
        oldest_pending_age_s=_oldest_age_s(connection, now_ns),
        spool_bytes=bytes_on_disk(Path(path)), is_copy=bool(path) and _is_copy(connection, path),
    )


def _is_copy(connection: sqlite3.Connection, path: Path | str) -> bool:
    known = connection.execute("SELECT birthmark FROM file").fetchone()
    return known is not None and known[0] != schema.birthmark(path)


def totals(connection: sqlite3.Connection) -> Totals:
    """The numbers of promise 2 for one file, without reading its rows or its whole ledger.

    Rows that the ledger does not name yet are consecutive, so their number is the
    difference of two ids and nothing is scanned (``count(*)`` of 10⁷ rows takes
    4.5 s, to sum up a ledger of 900,000 batches 0.4).
    """
    tally: dict[str, int] = dict(
        connection.execute("SELECT name, sum(records) FROM tally GROUP BY name ORDER BY name")
    )
    waiting = "SELECT coalesce(sum(records), 0) FROM batch WHERE state = 'pending'"
    ambiguous = "SELECT coalesce(sum(ambiguous), 0) FROM batch WHERE ambiguous > 0"
    return Totals(
        accepted=accepted(connection),
        pending=_number(connection, waiting) + _unledgered(connection),
        refused={
            name[len(_REFUSED):]: records for name, records in tally.items()
            if name.startswith(_REFUSED)
        },
        ambiguous_attempts=_number(connection, ambiguous),
        **{name: tally.get(name, 0) for name in OUTCOMES},
    )


def accepted(connection: sqlite3.Connection) -> int:
    """How many records the file accepted, by its counter."""
    return _number(connection, "SELECT coalesce(sum(accepted), 0) FROM stream")


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])


def _unledgered(connection: sqlite3.Connection) -> int:
    return _number(
        connection,
        "SELECT max(0, coalesce((SELECT max(id) FROM record), 0) "
        "- coalesce((SELECT max(last_id) FROM batch), 0))",
    )


def _oldest_age_s(connection: sqlite3.Connection, now_ns: int) -> float:
    first = connection.execute(
        "SELECT min(first_id) FROM batch WHERE state = 'pending'"
    ).fetchone()[0]
    row = connection.execute(
        "SELECT accepted_unix_ns FROM record WHERE id >= coalesce(?, "
        "(SELECT coalesce(max(last_id), 0) + 1 FROM batch)) ORDER BY id LIMIT 1", (first,)
    ).fetchone()
    return max(0.0, (now_ns - row[0]) / 1e9) if row else 0.0


def sum_totals(statuses: list[SpoolStatus]) -> Totals:
    """The numbers of promise 2 over several files."""
    result = Totals()
    for status in statuses:
        result += status.totals
    return result
