"""The index of a spool directory: where the records are that somebody asks for.

It is derived from the spool files and never written by an emitter: whoever asks brings it
up to date first, reading only the rows that are new. It may be deleted at any time; a
damaged one is thrown away and made again. It knows nothing of what became of a record:
that stands in the ledger, and is asked there.

Promises: an answer names rows that were there when the index was brought up to date. What
was replaced, restored, moved to another file or let go of since it was read is forgotten.

What it refuses: to write to a spool file, and to know what a payload means (``Describer``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from otel_memoir.errors import SpoolCorruptError, SpoolError
from otel_memoir.spool.connection import is_corrupt, is_disk_full
from otel_memoir.spool.directory import Slot, slots, was_inherited
from otel_memoir.spool.index_face import face_of, is_what_was_read
from otel_memoir.spool.index_file import IndexFile, looking
from otel_memoir.spool.index_fill import (
    Described,
    Describer,
    Filler,
    OutgrownError,
    Progress,
)
from otel_memoir.spool.index_find import Entry, Place, Question, Spans, answer
from otel_memoir.spool.index_tables import COMPLETE, ROWS_MAX, SLOT_SHIFT, prepare
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.model import State
from otel_memoir.spool.quarantine import said_in_words
from otel_memoir.spool.rows import BECAME
from otel_memoir.spool.schema import is_unused

__all__ = [
    "Described", "Describer", "Entry", "Place", "Question", "RecordIndex", "Spans", "looking",
    "spans_in",
]

T = TypeVar("T")

_FORMAT = 1
_TIMEOUT_S = 60.0
_SPANS_MAX = 100
_INHERITED = (
    "the parent process had it open when this one was forked, so it cannot be read here; ask "
    "there, or with `otel-memoir events`"
)
_BATCHES_MAX = 20_000


def _ignore(_done: int, _of: int) -> None:
    return None


class RecordIndex:
    """The index of one directory. Constructing it opens nothing.

    Threads may share it. In a fork child it begins anew by itself.

    Args:
        directory: The spool directory.

        describer: What payloads are found by.
    """

    def __init__(self, directory: Path, describer: Describer) -> None:
        self.directory = directory
        self._describer = describer
        self._file = IndexFile(
            directory,
            describes=f"{_FORMAT} {describer.version} {' '.join(describer.keys)}",
            prepare=lambda connection: prepare(connection, describer.keys),
        )

    def refresh(
        self, *, timeout: float = _TIMEOUT_S, progress: Progress = _ignore
    ) -> Mapping[str, str]:
        """Bring the index up to date with the files; on return it knows every row they had.

        Args:
            timeout: How long, in seconds, to wait for another process that is at it.

            progress: Told, now and then, how many rows were read, and of how many.

        Returns:
            What is wrong with each file that cannot be read, by slot name.

        Raises:
            SpoolError: The index cannot be made.
        """
        return self._usably(lambda: self._refresh(timeout, progress))

    def find(self, question: Question) -> Generator[Entry, None, None]:
        """The entries that a question asks for, as they are asked for, in order.

        Raises:
            SpoolCorruptError: The index was damaged; it is thrown away, so ``refresh`` helps.

            SpoolError: It cannot be read.
        """
        try:
            with self._file.reading() as connection:
                yield from answer(connection, self._describer.keys, question)
        except (sqlite3.Error, OSError) as error:
            if is_corrupt(error):
                self._file.throw_away(_TIMEOUT_S)
            raise self._problem("read index", error) from error

    def earliest_ns(self, spans: Spans) -> int:
        """The time of the earliest of some rows; 0 where there is none.

        Raises:
            SpoolError: The index cannot be read.
        """
        try:
            with self._file.reading() as connection, looking:
                numbers = dict(connection.execute("SELECT name, number FROM source").fetchall())
                times = [
                    connection.execute(
                        "SELECT min(unix_ns) FROM entry NOT INDEXED WHERE id BETWEEN ? AND ?",
                        ((numbers[name] << SLOT_SHIFT) + first,
                         (numbers[name] << SLOT_SHIFT) + min(last, ROWS_MAX)),
                    ).fetchone()[0] for name, first, last in spans if name in numbers
                ]
        except (sqlite3.Error, OSError) as error:
            raise self._problem("read index", error) from error
        return min((time for time in times if time is not None), default=0)

    def reach(self) -> dict[str, tuple[str, int]]:
        """How far it has read each file: which file it is, and its last row; by slot name.

        Raises:
            SpoolError: As ``find``.
        """
        try:
            with looking, self._file.reading() as connection:
                rows = connection.execute("SELECT name, face, last_id FROM source").fetchall()
        except (sqlite3.Error, OSError) as error:
            raise self._problem("read index", error) from error
        return {name: (face.rpartition(" ")[0], last_id) for name, face, last_id in rows}

    def close(self) -> None:
        """Let go of what it holds; it can be used again. Idempotent."""
        with looking:
            self._file.close()

    # -- bringing it up to date -------------------------------------------------

    def _usably(self, work: Callable[[], T]) -> T:
        """Do something with the index; if it is damaged or outgrown, make it anew first."""
        try:
            try:
                return work()
            except (sqlite3.DatabaseError, OutgrownError) as error:
                if not is_corrupt(error) and not isinstance(error, OutgrownError):
                    raise
                self._file.throw_away(_TIMEOUT_S)
                return work()
        except (sqlite3.Error, OSError) as error:
            raise self._problem("bring index up to date", error) from error

    def _refresh(self, timeout: float, progress: Progress) -> Mapping[str, str]:
        found = slots(self.directory)
        mine = [slot for slot in found if not was_inherited(slot.database)]
        wrong = {slot.name: _INHERITED for slot in found if slot not in mine}
        known = self._known()
        if known is not None and known.keys() <= {slot.name for slot in found} and all(
            self._is_current(slot, known) for slot in mine
        ):
            return wrong
        with self._file.writing(timeout) as connection:
            filler = Filler(connection, self._describer, progress)
            return {**wrong, **filler.fill(mine, others=wrong)}

    def _known(self) -> dict[str, tuple[str, int, str]] | None:
        """What the index has read of each file; ``None`` where there is no usable index."""
        try:
            with looking, self._file.reading() as connection:
                if not connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = ?", (COMPLETE,)
                ).fetchone():
                    return None
                rows = connection.execute("SELECT name, face, last_id, seal FROM source")
                return {name: (face, last_id, seal) for name, face, last_id, seal in rows}
        except (sqlite3.Error, OSError):
            return None

    def _is_current(self, slot: Slot, known: Mapping[str, tuple[str, int, str]]) -> bool:
        """Whether nothing of a file is new. Only reads, and takes no lock."""
        if slot.name not in known:
            return False
        face, last_id, seal = known[slot.name]
        try:
            with looking, said_in_words(slot.database), looking_at(slot.database) as spool:
                now = face_of(spool, slot.database)
                return now is not None and (now.face, max(now.last_id, last_id)) == (
                    face, last_id
                ) and is_what_was_read(spool, last_id, seal)
        except SpoolError:
            return False

    def _problem(self, operation: str, error: BaseException) -> SpoolError:
        hint = "The index is derived from the spool files: it may be deleted, and is made again."
        if is_disk_full(error):
            hint = "Make room on the disk."
        if isinstance(error, PermissionError):
            hint = "Ask as the user whose directory it is."
        kind = SpoolCorruptError if is_corrupt(error) else SpoolError
        return kind(operation, target=self._file.path, cause=error, hint=hint)


def spans_in(slot: Slot, states: Sequence[str]) -> list[tuple[str, int, int]] | None:
    """The rows of a file that are in some states, if that can be said in few words.

    Returns:
        Spans of rows; ``None`` if there are more than a hundred.

    Raises:
        SpoolError: The file cannot be read.
    """
    if was_inherited(slot.database):
        return []
    with looking, said_in_words(slot.database), looking_at(slot.database) as spool:
        if is_unused(spool):
            return []
        marks = ", ".join("?" * len(states))
        stored = (*states, State.DELIVERED.value) if State.REJECTED.value in states else states
        rows = spool.execute(
            "SELECT b.first_id, b.last_id FROM batch b WHERE b.pruned = 0 "
            f"AND b.state IN ({', '.join('?' * len(stored))}) AND {BECAME} IN ({marks}) "
            "ORDER BY b.first_id LIMIT ?", (*stored, *states, _BATCHES_MAX),
        ).fetchall()
        ledgered = spool.execute("SELECT coalesce(max(last_id), 0) FROM batch").fetchone()[0]
        last_id = spool.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
    if State.PENDING.value in states and last_id > ledgered:
        rows.append((ledgered + 1, last_id))
    runs = _runs(rows)
    few = len(rows) < _BATCHES_MAX and len(runs) <= _SPANS_MAX
    return [(slot.name, first, last) for first, last in runs] if few else None


def _runs(rows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges, in order, with those that follow each other made one."""
    runs: list[tuple[int, int]] = []
    for first, last in rows:
        if runs and runs[-1][1] + 1 == first:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs
