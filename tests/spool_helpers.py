"""What the tests of the spool share: spools to write to, and ways to make them fail."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from otel_memoir.delivery import Courier
from otel_memoir.delivery.encoding import join_envelope
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.sdk.gap_event import gap_draft
from otel_memoir.sdk.unknown_event import unknown_draft
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Refused, Spool, Stream, Ticket, Totals
from otel_memoir.spool.directory import slots
from otel_memoir.spool.inspect import status_of_directory, sum_totals
from otel_memoir.spool.verify import verify_directory

_NUMBER = re.compile(rb"<([\w.]+)>")


def draft(name: str = "x", *, size: int = 0, severity: int = 9) -> Draft:
    """A record that can be told from others by its name."""
    return Draft(b"envelope", f"<{name}>".encode() + bytes(size), severity, f"uid-{name}")


def own_draft(name: str, **given: int) -> Draft:
    """A record whose envelope the delivery can read."""
    return draft(name, **given)._replace(envelope=join_envelope(b"", b""))


def make_stamper(stream: Stream) -> Callable[[Draft, int], tuple[bytes, int]]:
    """Stamps that say the sequence and nothing else."""
    return lambda draft, sequence: (f"#{stream.epoch}.{sequence}".encode(), sequence)


def open_spool(directory: Path, **given: Any) -> Spool:
    """A spool that does not look at how full this machine's disk is."""
    settings = Settings(**{"disk_free_bytes_min": 0, "emit_timeout_s": 3.0, **given})
    return Spool(settings, directory=directory, make_stamper=make_stamper)


def store(spool: Spool, name: str, **given: Any) -> Ticket:
    """Append a record that must be accepted."""
    ticket = spool.append(draft(name, **given))
    assert isinstance(ticket, Ticket), ticket
    return ticket


def put(spool: Spool, name: str, **given: int) -> Ticket:
    """As ``store``, for a record that is going to be delivered."""
    ticket = spool.append(own_draft(name, **given))
    assert isinstance(ticket, Ticket), ticket
    return ticket


class Destination:
    """A destination without a network: takes every request and remembers it, or is away.

    Args:
        is_open: Whether it takes what it gets.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.requests: list[bytes] = []

    def send(self, request: bytes, *, headers: object, timeout: float | None = None) -> Outcome:
        """As a sender's."""
        if not self.is_open:
            return Outcome(verdict=Verdict.RETRY, code="503", message="not yet", hint="")
        self.requests.append(request)
        return Outcome(verdict=Verdict.DELIVERED, code="200", message="", hint="")

    def close(self) -> None:
        """As a sender's."""

    def forget(self) -> None:
        """As a sender's."""

    def copies(self, text: bytes) -> int:
        """How often a text arrived."""
        return sum(request.count(text) for request in self.requests)


def courier_of(spool: Spool, sender: Destination) -> Courier:
    """A courier for a spool, started by hand or by the next record."""
    courier = Courier(
        spool, sender, spool.settings, make_gap_draft=gap_draft, make_orphan_draft=unknown_draft
    )
    spool.on_accept = courier.wake
    return courier


def stop(courier: Courier, spool: Spool) -> None:
    """End both, as the pipeline does."""
    courier.close(2.0)
    spool.close(2.0)


def is_refused(found: object, reason: str) -> bool:
    """Whether a record was refused for this reason."""
    return isinstance(found, Refused) and found == reason


def select(path: Path, sql: str, *args: object) -> list[tuple[Any, ...]]:
    """Look at a spool file with a connection of our own."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, args).fetchall()


def names_in(directory: Path) -> set[str]:
    """The names of all records that lie in any spool file of a directory.

    Raises:
        sqlite3.DatabaseError: A file is damaged.
    """
    return set(all_names_in(directory))


def all_names_in(directory: Path) -> list[str]:
    """As ``names_in``, each as often as it is stored, in order."""
    found: list[str] = []
    for slot in slots(directory):
        with closing(sqlite3.connect(slot.database)) as connection:
            problems = connection.execute("PRAGMA quick_check").fetchall()
            if problems != [("ok",)]:
                raise sqlite3.DatabaseError(f"{slot.name}: {problems[:3]}")
            found += _names(connection)
    return found


def _names(connection: sqlite3.Connection) -> Iterator[str]:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'record'").fetchone():
        for (payload,) in connection.execute("SELECT payload FROM record ORDER BY id"):
            if (match := _NUMBER.search(payload)) is not None:
                yield match.group(1).decode()


def totals_of(directory: Path) -> Totals:
    """The numbers of promise 2 over all files of a directory."""
    return sum_totals(status_of_directory(directory))


def problems_of(directory: Path) -> list[str]:
    """What ``verify`` finds, over all files."""
    return [found for verdict in verify_directory(directory) for found in verdict.findings]


class FaultyConnection:
    """A connection that raises once, or always, before or after a statement.

    Args:
        real: The connection behind it.

        statement: How the statement begins.

        error: What is raised.

        times: How often.

        after: Raise after the statement has been carried out.
    """

    def __init__(
        self,
        real: sqlite3.Connection,
        statement: str,
        error: BaseException,
        *,
        times: int = 1,
        after: bool = False,
    ) -> None:
        self._real = real
        self._statement = statement
        self._error = error
        self._after = after
        self.left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, *args: Any) -> Any:
        """Carry a statement out, or raise instead."""
        strikes = self.left > 0 and sql.startswith(self._statement)
        if strikes:
            self.left -= 1
            if self._after:
                self._real.execute(sql, *args)
            raise self._error
        return self._real.execute(sql, *args)


def make_faulty(
    spool: Spool, statement: str, error: BaseException, *, times: int = 1, after: bool = False
) -> FaultyConnection:
    """Put a faulty connection under the file that a spool writes now."""
    file = spool.file
    assert file is not None
    faulty = FaultyConnection(file.connection, statement, error, times=times, after=after)
    file.connection = faulty  # type: ignore[assignment]  # it stands in for one
    return faulty


def disk_full() -> sqlite3.Error:
    """What sqlite3 raises when there is no room."""
    return sqlite3.OperationalError("database or disk is full")


def io_error() -> sqlite3.Error:
    """What sqlite3 raises when the disk fails."""
    return sqlite3.OperationalError("disk I/O error")
