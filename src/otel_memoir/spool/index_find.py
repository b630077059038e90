"""Questions to an index: entries in one stable order, found through the best of its indexes.

A question is answered piece by piece, each in a snapshot of its own. Of several values of
one key each is looked up by itself and what is found is merged, so nothing is sorted but
what has the same time.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from otel_memoir.spool.index_file import looking
from otel_memoir.spool.index_tables import ROWS_MAX, SLOT_SHIFT

FIRST_ROWS, PIECE_ROWS = 32, 1024
"""How many entries are looked up at first, and at most, at once."""

_PROBED_MAX = 10_000
_SPAN_MAX = 10_000
_TIME_MAX = 2**63 - 1


class Place(NamedTuple):
    """Where an entry stands in the order of all: by time, then by its name."""

    unix_ns: int
    stream_id: str
    epoch: int
    sequence: int
    uid: str


class Entry(NamedTuple):
    """A row of a spool file that an index knows of."""

    place: Place
    slot: str
    row: int


Spans = Sequence[tuple[str, int, int]]
"""Rows of files: slot name, first and last row."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked for; an empty tuple and ``None`` ask for nothing in particular.

    Attributes:
        terms: For a key's place, the values of which an entry has to have one.

        uids, streams: The ids of which it has to have one.

        since_ns, until_ns: The time of its stamp: from, and before.

        first_sequence, last_sequence: The bounds of its number, both included.

        spans: The rows it has to be among.

        after: The place that it comes after, in the order of the answer.

        newest_first: The order of the answer.
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...] = ()
    uids: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = _TIME_MAX
    first_sequence: int | None = None
    last_sequence: int | None = None
    spans: Spans | None = None
    after: Place | None = None
    newest_first: bool = False


class _Way(NamedTuple):
    """A way to the entries: a table expression, what has to hold, and its values."""

    table: str
    condition: str
    values: tuple[object, ...]
    time: str = "e.unix_ns"


def answer(
    connection: sqlite3.Connection, keys: Sequence[str], question: Question
) -> Iterator[Entry]:
    """The entries that a question asks for, in order, as they are asked for."""
    search = _Search(connection, keys, question)
    if search.understood():
        yield from _in_order(search.rows(), question)


def _in_order(rows: Iterator[Entry], question: Question) -> Iterator[Entry]:
    """Sort what has the same time; leave out what was found twice or lies before ``after``."""
    after, newest_first = question.after, question.newest_first
    for _, group in itertools.groupby(rows, key=lambda entry: entry.place.unix_ns):
        for entry in sorted(set(group), reverse=newest_first):
            if after is None or (
                entry.place < after if newest_first else entry.place > after
            ):
                yield entry


class _Search:
    def __init__(
        self, connection: sqlite3.Connection, keys: Sequence[str], question: Question
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._question = question
        self._terms: list[tuple[str, tuple[int, ...]]] = []
        self._lives: dict[int, tuple[str, int]] = {}
        self._slots: dict[int, str] = {}

    def understood(self) -> bool:
        """Look the words of the question up; whether anything can have all of them."""
        execute, question = self._connection.execute, self._question
        self._look_names_up()
        for kind, texts in question.terms:
            numbers = execute(
                f"SELECT number FROM term WHERE kind = ? AND text IN ({_marks(texts)})",
                (kind, *texts),
            ).fetchall()
            if not numbers:
                return False
            self._terms.append((self._keys[kind], tuple(number for (number,) in numbers)))
        return not question.streams or bool(self._asked_lives())

    def _look_names_up(self) -> None:
        execute = self._connection.execute
        self._slots = dict(execute("SELECT number, name FROM source").fetchall())
        self._lives = {
            number: (stream_id, epoch)
            for number, stream_id, epoch in execute("SELECT number, stream_id, epoch FROM life")
        }

    def _asked_lives(self) -> tuple[int, ...]:
        streams = self._question.streams
        return tuple(n for n, (stream_id, _) in self._lives.items() if stream_id in streams)

    # -- the ways --------------------------------------------------------------

    def rows(self) -> Iterator[Entry]:
        """The entries by time; what has the same time in any order."""
        newest_first = self._question.newest_first
        return heapq.merge(
            *(self._along(way) for way in self._best()), reverse=newest_first,
            key=lambda entry: entry.place.unix_ns,
        )

    def _best(self) -> list[_Way]:
        question = self._question
        if question.uids:
            return [_by("uid", uid) for uid in question.uids]
        if question.spans is not None:
            table, ids = "entry e NOT INDEXED", list(self._ids(question.spans))
            if not ids or sum(last - first + 1 for first, last in ids) <= _SPAN_MAX:
                return [_Way(table, "e.id BETWEEN ? AND ?", each) for each in ids]
        choices = [self._by_term(key, numbers) for key, numbers in self._terms]
        if question.streams:
            choices.append([self._by_life(life) for life in self._asked_lives()])
        if len(choices) > 1:
            return min(choices, key=self._cost)
        return choices[0] if choices else [_Way("entry e INDEXED BY by_time", "1", ())]

    def _by_term(self, key: str, numbers: Sequence[int]) -> list[_Way]:
        ways = [_by(key, number) for number in numbers]
        ways += [
            _Way("also a CROSS JOIN entry e ON e.id = a.id", "a.term = ?", (number,), "a.unix_ns")
            for number in numbers if self._is_also(number)
        ]
        return ways

    def _is_also(self, number: int) -> bool:
        return self._connection.execute(
            "SELECT 1 FROM also WHERE term = ? LIMIT 1", (number,)
        ).fetchone() is not None

    def _by_life(self, life: int) -> _Way:
        question = self._question
        first, last = question.first_sequence or 0, question.last_sequence
        if last is not None and last - first <= _SPAN_MAX:
            return _Way("entry e INDEXED BY by_sequence", "e.life = ?", (life,), "+e.unix_ns")
        return _by("life", life)

    def _cost(self, ways: Sequence[_Way]) -> int:
        return sum(
            self._connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM {way.table} WHERE {way.condition} LIMIT ?)",
                (*way.values, _PROBED_MAX),
            ).fetchone()[0] for way in ways
        )

    # -- going along one of them ------------------------------------------------

    def _along(self, way: _Way) -> Iterator[Entry]:
        """Its entries by time and id, piece by piece."""
        newest_first = self._question.newest_first
        conditions, values = self._conditions()
        order = "DESC" if newest_first else "ASC"
        query = (
            "SELECT e.id, e.unix_ns, e.life, e.sequence, e.uid FROM "
            f"{way.table} WHERE {' AND '.join((way.condition, *conditions))} "
            f"AND {way.time} >= ? AND {way.time} <= ? "
            f"AND NOT (e.unix_ns = ? AND e.id {'>=' if newest_first else '<='} ?) "
            f"ORDER BY {way.time} {order}, e.id {order} LIMIT ?"
        )
        first, last = self._bounds()
        at, at_id, size = -1, -1, FIRST_ROWS
        while True:
            with looking:
                rows = self._connection.execute(
                    query, (*way.values, *values, first, last, at, at_id, size)
                ).fetchall()
            for row in rows:
                yield self._entry(*row)
            if len(rows) < size:
                return
            size = min(4 * size, PIECE_ROWS)
            at_id, at = rows[-1][0], rows[-1][1]
            first, last = (first, at) if newest_first else (at, last)

    def _bounds(self) -> tuple[int, int]:
        question = self._question
        first, last = question.since_ns, question.until_ns - 1
        if question.after is None:
            return first, last
        if question.newest_first:
            return first, min(last, question.after.unix_ns)
        return max(first, question.after.unix_ns), last

    def _entry(self, id_: int, unix_ns: int, life: int, sequence: int, uid: str | None) -> Entry:
        if life not in self._lives or id_ >> SLOT_SHIFT not in self._slots:
            self._look_names_up()  # somebody brought the index up to date meanwhile
        stream_id, epoch = self._lives[life]
        place = Place(unix_ns, stream_id, epoch, sequence, uid or "")
        return Entry(place, self._slots[id_ >> SLOT_SHIFT], id_ & ROWS_MAX)

    def _conditions(self) -> tuple[list[str], list[object]]:
        """Everything that the question asks of an entry, but for its time."""
        question = self._question
        conditions, values = [], list[object]()
        for key, numbers in self._terms:
            marks = _marks(numbers)
            conditions.append(
                f"(+e.{key} IN ({marks}) OR EXISTS (SELECT 1 FROM also x WHERE x.term IN ({marks}) "
                "AND x.unix_ns = e.unix_ns AND x.id = e.id))"
            )
            values += (*numbers, *numbers)
        for column, chosen in (("uid", question.uids), ("life", self._asked_lives())):
            if chosen:
                conditions.append(f"+e.{column} IN ({_marks(chosen)})")
                values += chosen
        for sign, bound in ((">=", question.first_sequence), ("<=", question.last_sequence)):
            if bound is not None:
                conditions.append(f"e.sequence {sign} ?")
                values.append(bound)
        return self._with_spans(conditions, values)

    def _with_spans(
        self, conditions: list[str], values: list[object]
    ) -> tuple[list[str], list[object]]:
        if self._question.spans is not None:
            ids = list(self._ids(self._question.spans))
            # Not a chain of ORs: SQLite takes no more than a thousand.
            conditions.append(
                f"EXISTS (SELECT 1 FROM (VALUES {', '.join(['(?, ?)'] * len(ids))}) AS span "
                "WHERE e.id BETWEEN span.column1 AND span.column2)"
            )
            values += itertools.chain.from_iterable(ids)
        return conditions, values

    def _ids(self, spans: Spans) -> Iterator[tuple[int, int]]:
        numbers = {name: number for number, name in self._slots.items()}
        for name, first, last in spans:
            if name in numbers:
                base = numbers[name] << SLOT_SHIFT
                yield base + first, base + min(last, ROWS_MAX)


def _by(column: str, value: object) -> _Way:
    return _Way(f"entry e INDEXED BY by_{column}", f"e.{column} = ?", (value,))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
