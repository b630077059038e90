"""Reading what the local spools still hold: delivered records too, while they are retained.

    with Retrieval("/var/lib/agent/spool") as retrieval:
        page = retrieval.page(event="memoir.record.updated", since=yesterday, limit=50)

Promises: nothing is written to a spool file, and emitting is not slowed down: each query
first reads what is new into an index beside the files (``spool.index``), then looks the
answer up. What became of a record is asked of the ledger at that moment. The order is by
time of stamp, then by stream, epoch, sequence and uid, the same in each run. A record that
two files hold, because one of them failed or was copied, is told once.

What it cannot see: records that are not on disk yet, or never will be (a spool in memory).
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union

from otel_memoir.errors import SpoolCorruptError, SpoolError
from otel_memoir.retrieval.event import Page, RetainedEvent, cursor_of, place_of
from otel_memoir.retrieval.filters import FilterArguments, Filters, filters_of
from otel_memoir.retrieval.terms import DESCRIBER
from otel_memoir.spool import State
from otel_memoir.spool.directory import slots, was_inherited
from otel_memoir.spool.index import Entry, Place, Question, RecordIndex, Spans, looking, spans_in
from otel_memoir.spool.rows import StoredRecord, records_at
from otel_memoir.stamping.resolution import resolve

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

LIMIT = 100
TIMEOUT_S = 60.0

Directories = Union[str, "os.PathLike[str]", Iterable[Union[str, "os.PathLike[str]"]]]
Progress = Callable[[int, int], None]
Marks = Mapping[tuple[int, str], tuple[str, int]]
"""How far each file was seen."""

_PIECE = 500
_CERTAINTY = {State.DELIVERED: 0, State.PENDING: 2}


def _ignore(_done: int, _of: int) -> None:
    return None


class _Found(NamedTuple):
    place: Place
    at: int
    entry: Entry


_Group = tuple[_Found, ...]
"""A record, and its copies."""


class Retrieval:
    """What one or several spool directories still hold. Constructing it opens nothing.

    Threads may share it; in a fork child it begins anew by itself. A directory that does
    not exist yet holds nothing.

    Args:
        directories: The spool directory, or several.

        timeout: How long, in seconds, a query waits for another process that brings the
            index up to date.

        progress: Told how many rows were read into an index, and of how many.
    """

    def __init__(
        self, directories: Directories, *, timeout: float = TIMEOUT_S,
        progress: Progress = _ignore,
    ) -> None:
        if isinstance(directories, (str, os.PathLike)):
            directories = (directories,)
        self._indexes = [RecordIndex(Path(path), DESCRIBER) for path in directories]
        self._timeout = timeout
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what it holds. Idempotent; it can be used again."""
        for index in self._indexes:
            index.close()

    # -- asking -----------------------------------------------------------------

    def page(
        self, *, limit: int = LIMIT, after: str | None = None, newest_first: bool = False,
        **filters: Unpack[FilterArguments],
    ) -> Page:
        """The next events that match.

        Args:
            limit: The most events.

            after: The cursor of the page before; the same filters and order go with it.

            newest_first: The order: by default the oldest is first.

            **filters: See ``FilterArguments``.

        Raises:
            SpoolError: A filter or cursor cannot be used, or the index cannot be made.
        """
        asked, begin = filters_of(filters), place_of(after)
        if not isinstance(limit, int) or limit < 1:
            raise SpoolError(
                "ask for events", target="limit", cause=f"{limit!r:.60} is no number of events",
                hint="Give an integer of 1 or more.",
            )
        problems = self.refresh()
        found = self._first(asked, begin, newest_first, limit + 1)
        last = found[:limit][-1].place if found else begin
        return Page(
            events=tuple(found[:limit]), cursor=cursor_of(last), has_more=len(found) > limit,
            problems=problems,
        )

    def every(
        self, *, newest_first: bool = False, problems: list[str] | None = None,
        **filters: Unpack[FilterArguments],
    ) -> Iterator[RetainedEvent]:
        """All events that match, as they are asked for; read in pieces, not at once.

        Args:
            newest_first: As of ``page``.

            problems: Takes what is wrong with files that cannot be read, of which nothing
                is told then; without it, that is an error.

            **filters: See ``FilterArguments``.

        Raises:
            SpoolError: As ``page``, or a file cannot be read.
        """
        asked = filters_of(filters)
        wrong = self.refresh()
        if problems is not None:
            problems += wrong
        elif wrong:
            raise SpoolError(
                "read", target=f"{len(wrong)} spool file(s)", cause="; ".join(wrong),
                hint="See `otel-memoir verify`.",
            )
        yield from self._from_the_beginning(asked, newest_first)

    def history(
        self, memory_record: str, *, store: str | Iterable[str] | None = None
    ) -> tuple[RetainedEvent, ...]:
        """All events that name a memory record, in resolved order, the oldest first.

        Where several streams tell of it, the order is that of ``stamping.resolution``:
        sequence, epoch, known cause, then time as far as its error bounds allow.

        Args:
            memory_record: Its id.

            store: The stores whose record it is; by default any.

        Raises:
            SpoolError: As ``every``.
        """
        found = self.every(record=memory_record, store=store)
        resolved = resolve(event.stamp for event in found)
        return tuple(event.payload for event in resolved.events)

    def refresh(self) -> tuple[str, ...]:
        """Bring the indexes up to date.

        Returns:
            Files that could not be read, and why.

        Raises:
            SpoolError: An index cannot be made.
        """
        return tuple(
            f"{index.directory / name}.db: {cause}" for index in self._indexes
            for name, cause in index.refresh(
                timeout=self._timeout, progress=self._progress
            ).items()
        )

    def arrived(
        self, marks: Marks | None, **filters: Unpack[FilterArguments]
    ) -> tuple[list[RetainedEvent], Marks]:
        """What was stored since a moment, whatever time its stamps have.

        Args:
            marks: What this returned before; ``None`` begins now.

            **filters: See ``FilterArguments``.

        Returns:
            The events, in order, and the marks of this moment.

        Raises:
            SpoolError: As ``page``.
        """
        asked = filters_of(filters)
        self.refresh()
        reach = [index.reach() for index in self._indexes]
        now = {(at, slot): end for at, files in enumerate(reach) for slot, end in files.items()}
        if marks is None:
            return [], now
        spans = [
            [(slot, first, end[1]) for slot, end in files.items()
             if (first := _begin(marks.get((at, slot)), end)) <= end[1]]
            for at, files in enumerate(reach)
        ]
        if not any(spans):
            return [], now
        return list(self._matching(asked, None, newest_first=False, within=spans)), now

    # -- finding ----------------------------------------------------------------

    def _from_the_beginning(self, asked: Filters, newest_first: bool) -> Iterator[RetainedEvent]:
        """All that match. A damaged index is made anew, unless some were told already."""
        found = self._matching(asked, None, newest_first)
        try:
            first = next(found, None)
        except SpoolCorruptError:
            self.refresh()
            found = self._matching(asked, None, newest_first)
            first = next(found, None)
        if first is not None:
            yield first
            yield from found

    def _first(
        self, asked: Filters, begin: Place | None, newest_first: bool, count: int
    ) -> list[RetainedEvent]:
        def first() -> list[RetainedEvent]:
            matching = self._matching(asked, begin, newest_first, first_piece=count)
            with contextlib.closing(matching) as found:
                return list(itertools.islice(found, count))

        try:
            return first()
        except SpoolCorruptError:
            self.refresh()
            return first()

    def _matching(
        self, asked: Filters, begin: Place | None, newest_first: bool,
        within: Sequence[Spans | None] = (), first_piece: int = _PIECE,
    ) -> Generator[RetainedEvent, None, None]:
        """The events that match, each once, in order."""
        if asked.is_empty:
            return
        with contextlib.ExitStack() as stack:
            ways, is_partial = [], False
            for at, index in enumerate(self._indexes):
                question = asked.question(after=begin, newest_first=newest_first)
                spans = within[at] if within else _spans(index, asked.states)
                is_partial = is_partial or spans is not None
                entries = index.find(_narrowed(index, question, spans))
                stack.callback(entries.close)
                ways.append(_marked(at, entries))
            merged = heapq.merge(*ways, key=lambda found: found.place, reverse=newest_first)
            groups = (tuple(group) for _, group in itertools.groupby(merged, key=_place))
            pieces = _pieces(groups, first_piece)
            if is_partial and asked.states:
                pieces = map(self._with_copies, pieces)
            yield from self._read(pieces, asked.states)

    def _with_copies(self, piece: Sequence[_Group]) -> list[_Group]:
        """Add the copies of records that were found in some rows, but are in others."""
        groups = {group[0].place: set(group) for group in piece}
        question = Question(uids=tuple({place.uid for place in groups} - {""}))
        for at, index in enumerate(self._indexes) if question.uids else ():
            for entry in index.find(question):
                if entry.place in groups:
                    groups[entry.place].add(_Found(entry.place, at, entry))
        return [tuple(groups[group[0].place]) for group in piece]

    def _read(
        self, pieces: Iterable[Sequence[_Group]], states: Sequence[str]
    ) -> Iterator[RetainedEvent]:
        """The records behind entries, of copies the one that got furthest."""
        for piece in pieces:
            stored = self._stored(found for group in piece for found in group)
            for group in piece:
                there = [found for found in sorted(group) if _is_it(found, stored)]
                if there:
                    best = min(there, key=lambda f: _CERTAINTY.get(stored[f].state, 1))
                    if not states or stored[best].state in states:
                        yield self._retained(best, stored[best])

    def _stored(self, wanted: Iterable[_Found]) -> dict[_Found, StoredRecord]:
        by_file: dict[tuple[int, str], list[_Found]] = defaultdict(list)
        for found in wanted:
            by_file[found.at, found.entry.slot].append(found)
        stored: dict[_Found, StoredRecord] = {}
        for (at, slot), several in by_file.items():
            path = self._path(at, slot)
            if was_inherited(path):
                continue
            with looking:
                rows = records_at(path, [found.entry.row for found in several])
            stored |= {f: rows[f.entry.row] for f in several if f.entry.row in rows}
        return stored

    def _path(self, at: int, slot: str) -> Path:
        return self._indexes[at].directory / f"{slot}.db"

    def _retained(self, found: _Found, stored: StoredRecord) -> RetainedEvent:
        return RetainedEvent(
            directory=self._indexes[found.at].directory,
            file=self._path(found.at, found.entry.slot), place=found.place, stored=stored,
        )


def _marked(at: int, entries: Iterator[Entry]) -> Iterator[_Found]:
    return (_Found(entry.place, at, entry) for entry in entries)


def _pieces(groups: Iterator[_Group], first: int) -> Iterator[list[_Group]]:
    """Some records at a time: not more at first than are asked for."""
    size = min(first, _PIECE)
    while piece := list(itertools.islice(groups, size)):
        yield piece
        size = _PIECE


def _place(found: _Found) -> Place:
    return found.place


def _is_it(found: _Found, stored: dict[_Found, StoredRecord]) -> bool:
    """Whether the row is still that of the entry: it may be gone, and its id used again."""
    record = stored.get(found)
    return record is not None and (
        record.stream.stream_id, record.stream.epoch, record.sequence, record.stamped_unix_ns
    ) == (found.place.stream_id, found.place.epoch, found.place.sequence, found.place.unix_ns)


def _begin(mark: tuple[str, int] | None, end: tuple[str, int]) -> int:
    """The first row that is new; all are, where it is another file."""
    return mark[1] + 1 if mark is not None and mark[0] == end[0] else 1


def _narrowed(index: RecordIndex, question: Question, spans: Spans | None) -> Question:
    """Ask for these rows alone, and not for times at which there is none of them."""
    if spans is None:
        return question
    since_ns = max(question.since_ns, index.earliest_ns(spans))
    return replace(question, spans=spans, since_ns=since_ns)


def _spans(index: RecordIndex, states: Sequence[str]) -> Spans | None:
    """The rows that are in these states, where they are few beside all others."""
    if not states or State.DELIVERED.value in states:
        return None
    spans: list[tuple[str, int, int]] = []
    for slot in slots(index.directory):
        with contextlib.suppress(SpoolError):
            some = spans_in(slot, states)
            if some is None:
                return None
            spans += some
    return spans
