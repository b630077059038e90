"""Proving promise 2 from rows, ledger and checksums, never from the counter it checks.

For each stream the numbers 1 to the last must be covered exactly once: by a ledger
row, by a stored row that the ledger does not name yet, or by a gap. Then every
payload that must still be there is read and checked, and only at the end are the
counters compared with what was found.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from otel_memoir.errors import SpoolCorruptError, SpoolError
from otel_memoir.spool.checked import unpack
from otel_memoir.spool.crosscheck import contradictions
from otel_memoir.spool.directory import slots
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.ledger import ELSEWHERE
from otel_memoir.spool.model import OUTCOMES, Totals
from otel_memoir.spool.schema import is_unused

_FINDINGS_MAX = 100

_Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check of one file found.

    Attributes:
        path: The file.

        recomputed: The numbers of promise 2, from rows and ledger alone.

        findings: What is wrong, a sentence each; empty if nothing is.
    """

    path: str
    recomputed: Totals
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every record is accounted for."""
        return not self.findings


def verify_directory(directory: Path) -> list[Verdict]:
    """Check every spool file of a directory. Reads all rows; disturbs no writer."""
    return [verify_file(slot.database) for slot in slots(directory)]


def verify_file(path: Path) -> Verdict:
    """Check one spool file, be it in use, dead or copied."""
    try:
        with looking_at(path) as connection:
            if is_unused(connection):
                return Verdict(path=str(path), recomputed=Totals(), findings=())
            return _Check(connection, path).run()
    except (sqlite3.Error, SpoolError) as error:
        return Verdict(path=str(path), recomputed=Totals(), findings=(f"unreadable: {error}",))


class _Check:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._findings: list[str] = []
        self._counted: dict[tuple[int, str], int] = {}

    def run(self) -> Verdict:
        for problem in self._connection.execute("PRAGMA quick_check(10)"):
            if problem != ("ok",):
                self._find(f"SQLite: {problem[0]}")
        for stream, first, last, accepted in self._connection.execute(
            "SELECT id, first, sequence, accepted FROM stream ORDER BY id"
        ).fetchall():
            with contextlib.suppress(sqlite3.DatabaseError):
                self._check_stream(stream, first, last, accepted)
        self._check_payloads()
        self._compare_tally()
        with contextlib.suppress(sqlite3.DatabaseError):
            for sentence in contradictions(self._connection):
                self._find(sentence)
        return Verdict(
            path=str(self._path), recomputed=self._totals(), findings=tuple(self._findings)
        )

    def _find(self, sentence: str) -> None:
        if len(self._findings) < _FINDINGS_MAX:
            self._findings.append(sentence)

    # -- coverage -------------------------------------------------------------

    def _check_stream(self, stream: int, first: int, last: int, accepted: int) -> None:
        refused = self._refused(stream)
        expected, found = first, 0
        for start, end, records, what in self._covered(stream):
            if start < expected:
                self._find(f"stream {stream}: {start}..{expected - 1} are covered twice ({what})")
            self._check_hole(stream, expected, start - 1, refused)
            there = end - start + 1 - _within(refused, start, end)
            if there != records:
                self._find(f"stream {stream}: {what} {start}..{end} counts {records} records")
            expected = max(expected, end + 1)
            found += records
        self._check_hole(stream, expected, last, refused)
        if expected > last + 1:
            self._find(f"stream {stream}: rows beyond the last number {last}")
        if found != accepted:
            self._find(f"stream {stream}: the counter says {accepted} accepted, {found} are there")

    def _check_hole(self, stream: int, first: int, last: int, refused: list[_Range]) -> None:
        """Numbers that no row and no ledger row has: each must be named by one gap."""
        named = _within(refused, first, last)
        if named < last - first + 1:
            self._find(f"stream {stream}: {first}..{last} are nowhere, {named} are named by a gap")
        elif named > max(0, last - first + 1):
            self._find(f"stream {stream}: {first}..{last} are named twice")

    def _covered(self, stream: int) -> list[tuple[int, int, int, str]]:
        """What has a stream's numbers, in order: (first, last, records, what)."""
        ledger = self._connection.execute(
            "SELECT first_sequence, last_sequence, records, state, rejected FROM batch "
            "WHERE stream = ? AND state != 'split'", (stream,),
        ).fetchall()
        for *_, records, state, rejected in ledger:
            self._count(stream, state, records - rejected)
            self._count(stream, "rejected", rejected)
        return sorted([(*row[:3], "batch") for row in ledger] + self._unledgered(stream))

    def _refused(self, stream: int) -> list[_Range]:
        """Numbers that came to nothing, or are in another file, as gaps name them."""
        return self._connection.execute(
            "SELECT first_sequence, last_sequence FROM gap WHERE stream = ? "
            "AND (cause LIKE 'refused:%' OR cause = ?) AND first_sequence IS NOT NULL",
            (stream, ELSEWHERE),
        ).fetchall()

    def _unledgered(self, stream: int) -> list[tuple[int, int, int, str]]:
        """Runs of rows without a hole that no ledger row names."""
        runs = self._connection.execute(
            "SELECT min(sequence), max(sequence), count(*), 'rows' FROM (SELECT sequence, "
            "sequence - row_number() OVER (ORDER BY sequence) AS run FROM record "
            "WHERE stream = ? AND id > (SELECT coalesce(max(last_id), 0) FROM batch)) "
            "GROUP BY run", (stream,),
        ).fetchall()
        self._count(stream, "pending", sum(run[2] for run in runs))
        return runs

    def _count(self, stream: int, name: str, records: int) -> None:
        key = (stream, name)
        self._counted[key] = self._counted.get(key, 0) + records

    # -- payloads -------------------------------------------------------------

    def _check_payloads(self) -> None:
        """Read every row whose payload must still be there."""
        stored = self._connection.execute(
            "SELECT number, first_id, last_id, records, state, code FROM batch "
            "WHERE pruned = 0 AND state != 'split' ORDER BY first_id"
        ).fetchall()
        for number, first_id, last_id, records, state, code in stored:
            whole = self._check_rows("BETWEEN ? AND ?", first_id, last_id, known_bad=code)
            if whole != records and not (state == "quarantined" and code == "corrupt"):
                self._find(f"batch {number}: {records} records, {whole} rows are there")
        self._check_rows("> (SELECT coalesce(max(last_id), 0) FROM batch)")

    def _check_rows(self, where: str, *args: int, known_bad: str = "") -> int:
        rows = 0
        for id_, sequence, packed, crc, payload in self._connection.execute(
            f"SELECT id, sequence, packed, crc, payload FROM record WHERE id {where}", args
        ):
            rows += 1
            try:
                unpack(sequence, packed, crc, payload)
            except SpoolCorruptError as error:
                if known_bad != "corrupt":
                    self._find(f"row {id_}: {error}")
        return rows

    # -- counters -------------------------------------------------------------

    def _compare_tally(self) -> None:
        tally = {
            (stream, name): records
            for stream, name, records in self._connection.execute(
                "SELECT stream, name, records FROM tally"
            )
            if name in OUTCOMES
        }
        for key in sorted({*tally, *self._counted}):
            said, found = tally.get(key, 0), self._counted.get(key, 0)
            if key[1] in OUTCOMES and said != found:
                self._find(
                    f"stream {key[0]}: the counter says {said} {key[1]}, the ledger {found}"
                )

    def _totals(self) -> Totals:
        sums = dict.fromkeys((*OUTCOMES, "pending"), 0)
        for (_, name), records in self._counted.items():
            sums[name] += records
        refused: dict[str, int] = dict(
            self._connection.execute(
                "SELECT substr(cause, 9), sum(records) FROM gap WHERE cause LIKE 'refused:%' "
                "GROUP BY cause"
            ).fetchall()
        )
        return Totals(accepted=sum(sums.values()), refused=refused, **sums)


def _within(ranges: list[_Range], first: int, last: int) -> int:
    """How many numbers of ``first`` to ``last`` the ranges name."""
    return sum(max(0, min(last, end) - max(first, start) + 1) for start, end in ranges)
