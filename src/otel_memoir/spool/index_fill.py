"""Reading spool files into an index: only what is new, in short pages.

Each page is read in a snapshot of its own and let go of before anything is made of it,
so that no read keeps the writer's log from being taken over into the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any, NamedTuple

from otel_memoir.errors import SpoolCorruptError, SpoolError
from otel_memoir.spool.checked import unpack
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import Slot
from otel_memoir.spool.index_face import Face, face_of, is_what_was_read, seal_of
from otel_memoir.spool.index_file import looking
from otel_memoir.spool.index_tables import (
    ROWS_MAX,
    SLOT_SHIFT,
    create_index_of_terms,
    create_indexes,
    drop_indexes,
)
from otel_memoir.spool.inspect import looking_at
from otel_memoir.spool.quarantine import said_in_words

_PAGE_ROWS = 2000
_PAGES_A_COMMIT = 16
_TERMS_CACHED = 200_000
_FORGOTTEN_AT_ONCE = 10_000
_MANY_ROWS = 20_000
_TERMS_SPARE, _TERMS_A_RECORD = 100_000, 4


class Described(NamedTuple):
    """What an index keeps of a payload.

    Attributes:
        uid: The emission's id; empty if it has none.

        terms: For each key of the describer the value; empty where there is none.

        also: Further values: the key's place, and the value.
    """

    uid: str
    terms: tuple[str, ...]
    also: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Describer:
    """What a payload is found by; the spool itself knows no payload.

    Attributes:
        keys: The names of the values; each is an SQL name.

        read: Reads a payload; never raises.

        version: Rises when ``read`` reads something else.
    """

    keys: tuple[str, ...]
    read: Callable[[bytes], Described]
    version: int

    @property
    def nothing(self) -> Described:
        """What is known of a payload that cannot be read."""
        return Described("", ("",) * len(self.keys))


Progress = Callable[[int, int], None]
"""Told how many rows were read, and of how many."""


class OutgrownError(Exception):
    """Most words of an index are of records that are long gone: it is better made anew."""


class _Source(NamedTuple):
    number: int
    face: str
    last_id: int
    seal: str


class _Words(dict[str, int | None]):
    """The numbers of one key's words, as far as they are kept in mind; none for no word."""

    def __init__(self, kind: int, filler: Filler) -> None:
        self.kind = kind
        self._filler = filler
        self.begin()

    def begin(self) -> None:
        """Forget them."""
        self.clear()
        self[""] = None

    def __missing__(self, text: str) -> int:
        found = self[text] = self._filler.learn(self, text)
        return found


# -- filling -------------------------------------------------------------------


class Filler:
    """Brings an index up to date, on its writing connection.

    Args:
        connection: That connection.

        describer: What payloads are found by.

        progress: Told of each page.
    """

    def __init__(
        self, connection: sqlite3.Connection, describer: Describer, progress: Progress
    ) -> None:
        self._connection = connection
        self._describer = describer
        self._progress = progress
        self._begin_terms()
        marks = ", ".join("?" * (6 + len(describer.keys)))
        self._insert = f"INSERT OR REPLACE INTO entry VALUES ({marks})"
        self._read = self._to_read = 0

    def _begin_terms(self) -> None:
        """Know no words yet; also after a transaction that made some up was rolled back."""
        self._words = [_Words(kind, self) for kind in range(len(self._describer.keys))]
        self._new_terms: list[tuple[int, int, str]] = []
        self._last_term = int(
            self._connection.execute("SELECT coalesce(max(number), 0) FROM term").fetchone()[0]
        )
        self._knows_all = not self._last_term
        if self._last_term:
            create_index_of_terms(self._connection)

    def fill(self, slots: Sequence[Slot], *, others: Iterable[str] = ()) -> dict[str, str]:
        """Read what is new in these files, and forget the files that are gone.

        Args:
            slots: The files.

            others: Names of slots whose entries stay as they are.

        Returns:
            What is wrong with each file that cannot be read, by slot name.

        Raises:
            OutgrownError: The index had better be made anew.
        """
        self._forget_all_but({*others, *(slot.name for slot in slots)})
        wrong: dict[str, str] = {}
        faces = self._greet_all(slots, wrong)
        self._make_ready(faces)
        for slot, face in faces.items():
            try:
                self._take_in(slot, face)
            except SpoolError as error:
                wrong[slot.name] = str(error)
                self._begin_terms()
        create_indexes(self._connection, self._describer.keys)
        return wrong

    def _greet_all(self, slots: Sequence[Slot], wrong: dict[str, str]) -> dict[Slot, Face]:
        faces = {}
        for slot in slots:
            try:
                face = self._greet(slot)
            except SpoolError as error:
                wrong[slot.name] = str(error)
                continue
            if face is not None:
                faces[slot] = face
        return faces

    def _make_ready(self, faces: Mapping[Slot, Face]) -> None:
        """Find out how much there is to read, and let go of what that would slow down."""
        self._to_read = sum(
            max(0, face.last_id - max(face.first_id - 1, self._source(slot.name).last_id))
            for slot, face in faces.items()
        )
        held = sum(face.last_id - face.first_id + 1 for face in faces.values())
        if self._last_term > _TERMS_SPARE + _TERMS_A_RECORD * held:
            raise OutgrownError
        if self._to_read > max(_MANY_ROWS, self._entries()):
            drop_indexes(self._connection)

    def _entries(self) -> int:
        """How many entries there are, about, but never fewer."""
        return int(self._connection.execute(
            "SELECT coalesce(sum(last_id), 0) FROM source"
        ).fetchone()[0])

    def _greet(self, slot: Slot) -> Face | None:
        """Find out how a file looks, and begin its part of the index anew if it is another."""
        source = self._known(slot.name)
        with looking, said_in_words(slot.database), looking_at(slot.database) as spool:
            face = face_of(spool, slot.database)
            if face is None:
                return None
            same = source is not None and source.face == face.face and is_what_was_read(
                spool, source.last_id, source.seal
            )
        if source is not None and not same:
            self._forget(source.number, ROWS_MAX)
            self._connection.execute("DELETE FROM source WHERE number = ?", (source.number,))
        if not same:
            self._connection.execute(
                "INSERT INTO source (name, face, last_id, seal) VALUES (?, ?, 0, '')",
                (slot.name, face.face),
            )
        return face

    def _known(self, name: str) -> _Source | None:
        row = self._connection.execute(
            "SELECT number, face, last_id, seal FROM source WHERE name = ?", (name,)
        ).fetchone()
        return _Source(*row) if row else None

    def _source(self, name: str) -> _Source:
        found = self._known(name)
        assert found is not None, "it was greeted"
        return found

    def _take_in(self, slot: Slot, face: Face) -> None:
        source = self._source(slot.name)
        if face.first_id > 1 or not face.last_id:
            self._forget(source.number, (face.first_id or ROWS_MAX) - 1)
        last_id = source.last_id
        while last_id < face.last_id:
            with transaction(self._connection):
                for _ in range(_PAGES_A_COMMIT):
                    rows = self._page(slot, face, last_id)
                    if not rows:
                        return
                    last_id = rows[-1][0]
                    self._store(source.number, rows)
                    self._progress(self._read, self._to_read)
                    if last_id >= face.last_id:
                        break

    def _page(self, slot: Slot, face: Face, after_id: int) -> list[tuple[Any, ...]]:
        with looking, said_in_words(slot.database), looking_at(slot.database) as spool:
            now = face_of(spool, slot.database)
            if now is None or now.face != face.face:
                return []  # it was replaced beside us: whoever asks next begins anew
            return spool.execute(
                "SELECT r.id, s.stream_id, s.epoch, r.sequence, r.accepted_unix_ns, r.severity, "
                "r.packed, r.crc, r.payload FROM record r JOIN stream s ON s.id = r.stream "
                "WHERE r.id > ? ORDER BY r.id LIMIT ?", (after_id, _PAGE_ROWS),
            ).fetchall()

    def _store(self, number: int, rows: Sequence[Sequence[Any]]) -> None:
        entries, also = [], []
        lives: dict[tuple[str, int], int] = {}
        base, words = number << SLOT_SHIFT, self._words
        for id_, stream_id, epoch, sequence, unix_ns, severity, packed, crc, payload in rows:
            if (stream_id, epoch) not in lives:
                lives[stream_id, epoch] = self._life(stream_id, epoch)
            uid, terms, others = self._described(sequence, packed, crc, payload)
            entries.append((
                base + id_, lives[stream_id, epoch], sequence, unix_ns, severity, uid or None,
                *map(getitem, words, terms),
            ))
            if others:
                also += [(words[kind][text], unix_ns, base + id_) for kind, text in others]
        with looking:
            self._store_terms()
            self._connection.executemany(self._insert, entries)
            self._connection.executemany("INSERT INTO also VALUES (?, ?, ?)", also)
            self._connection.execute(
                "UPDATE source SET last_id = ?, seal = ? WHERE number = ?",
                (rows[-1][0], seal_of(rows[-1][3], rows[-1][7]), number),
            )
        self._read += len(rows)

    def _described(self, sequence: int, packed: int, crc: int, payload: bytes) -> Described:
        try:
            return self._describer.read(unpack(sequence, packed, crc, payload))
        except SpoolCorruptError:
            return self._describer.nothing

    def _life(self, stream_id: str, epoch: int) -> int:
        self._connection.execute(
            "INSERT OR IGNORE INTO life (stream_id, epoch) VALUES (?, ?)", (stream_id, epoch)
        )
        return int(self._connection.execute(
            "SELECT number FROM life WHERE stream_id = ? AND epoch = ?", (stream_id, epoch)
        ).fetchone()[0])

    def learn(self, words: _Words, text: str) -> int:
        """The number of a word that is not kept in mind. New ones are stored with the page."""
        if len(words) >= _TERMS_CACHED:
            self._store_terms()
            create_index_of_terms(self._connection)
            self._knows_all = False
            words.begin()
        found = self._stored_term(words.kind, text)
        if found is None:
            found = self._last_term = self._last_term + 1
            self._new_terms.append((found, words.kind, text))
        return found

    def _stored_term(self, kind: int, text: str) -> int | None:
        if self._knows_all:
            return None
        found = self._connection.execute(
            "SELECT number FROM term WHERE kind = ? AND text = ?", (kind, text)
        ).fetchone()
        return int(found[0]) if found else None

    def _store_terms(self) -> None:
        self._connection.executemany("INSERT INTO term VALUES (?, ?, ?)", self._new_terms)
        self._new_terms.clear()

    # -- forgetting -----------------------------------------------------------

    def _forget_all_but(self, names: set[str]) -> None:
        for number, name in self._connection.execute("SELECT number, name FROM source").fetchall():
            if name not in names:
                self._forget(number, ROWS_MAX)
                self._connection.execute("DELETE FROM source WHERE number = ?", (number,))

    def _forget(self, number: int, last_id: int) -> None:
        """Delete the entries of a file up to a row, some at a time."""
        base = number << SLOT_SHIFT
        gone, total = _FORGOTTEN_AT_ONCE, 0
        while gone == _FORGOTTEN_AT_ONCE:
            with looking, transaction(self._connection):
                gone = self._connection.execute(
                    "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE id BETWEEN ? AND ? "
                    "ORDER BY id LIMIT ?)", (base, base + last_id, _FORGOTTEN_AT_ONCE),
                ).rowcount
            total += gone
        if total >= _FORGOTTEN_AT_ONCE or last_id == ROWS_MAX:
            self._connection.execute(
                "DELETE FROM also WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.id = also.id)"
            )
