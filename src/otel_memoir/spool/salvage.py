"""Salvage: what can still be read of a broken file goes on in a new one.

A file that SQLite calls corrupt was moved aside whole. Here its rows are read one by
one, around the damage; those that waited and are what was written are stored in another
slot, to be delivered from there. What cannot be read becomes a gap. The broken file is
then renamed ``salvaged-…`` and kept: nothing of it is deleted.

What this code refuses: to trust a row whose checksum does not match, and to write to the
broken file, so that a person can still look at it. Where its ledger cannot be read,
a record may be sent that was delivered before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SpoolCorruptError
from otel_memoir.spool import intents, ledger
from otel_memoir.spool.checked import envelope_of, unpack
from otel_memoir.spool.connection import open_reader, transaction
from otel_memoir.spool.directory import broken_files, rename_database, try_lock_file
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Draft, Entry, Life, Stream
from otel_memoir.spool.moved import Moved, taken_over
from otel_memoir.spool.schema import fresh_header, new_stream_id

BROKEN = "broken"
"""The cause of a gap: the records were in a file that broke."""

_CHUNK = 256
_FAILED_READS_MAX = 4096
_LAST_ID_MAX = 2**40

OpenSlot = Callable[[], SpoolFile]


class _Row(NamedTuple):
    stream: int
    batch: int
    entry: Entry


class _Found(NamedTuple):
    """What of a broken file could be read."""

    streams: dict[int, tuple[Stream, int]]
    settled: list[tuple[int, int, int]]
    rows: list[_Row]
    intents: list[tuple[Any, ...]]


def salvage_all(directory: Path, *, open_slot: OpenSlot, unix_ns: int) -> None:
    """Salvage every broken file of a directory that no other process is salvaging.

    Args:
        open_slot: Takes a slot to go on in, and opens its file.

        unix_ns: The time, for times on disk.

    Raises:
        sqlite3.Error: The new file could not be written; it is tried again later.

        SpoolError: As above.

        OSError: As above.
    """
    for path in broken_files(directory, salvaged=False):
        lock_file = path.with_suffix(".lock")
        lock = try_lock_file(lock_file)
        if lock is None:
            continue
        try:
            if path.exists():
                _salvage(path, open_slot, unix_ns)
            lock_file.unlink()
        finally:
            os.close(lock)


def _salvage(path: Path, open_slot: OpenSlot, unix_ns: int) -> None:
    origins = (path.stem, f"memoir-{path.stem.split('-')[1]}")
    known = taken_over(path.parent, path.stem)
    stored = 0
    if not known:  # else a crash came between the commit and the renaming
        found = _read(path, taken_over(path.parent, origins[1]))
        with contextlib.closing(open_slot()) as file, transaction(file.connection):
            stored = _store(file, found, origins, unix_ns)
    rename_database(path, path.with_name(path.name.replace("broken", "salvaged", 1)))
    complaints.say("salvage", f"{stored} waiting records of {path.name} could be read; they go on")


# -- reading around the damage ------------------------------------------------


def _read(path: Path, elsewhere: list[Moved]) -> _Found:
    """Read the file; where its header is damaged, a copy that has a fresh one."""
    place = path.with_name(f".{path.stem}")
    try:
        readable = path if _has_header(path) else _mended(path, place)
        with contextlib.closing(open_reader(readable)) as connection:
            return _read_all(connection, elsewhere)
    except sqlite3.Error:
        return _Found({}, [], [], [])
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _has_header(path: Path) -> bool:
    try:
        with contextlib.closing(open_reader(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return False
    return True


def _mended(path: Path, place: Path) -> Path:
    """A copy of a file, with the header of a fresh one."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    copy = place / "copy.db"
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
    with open(copy, "r+b") as file:
        file.write(fresh_header(place / "fresh.db"))
    return copy


def _read_all(
    connection: sqlite3.Connection, elsewhere: list[Moved]
) -> _Found:
    streams = {
        id_: (Stream(stream_id, epoch), sequence)
        for id_, epoch, sequence, stream_id in _rows_of(
            connection, "stream", "id, epoch, sequence, stream_id", integers=3
        )
    }
    settled = [
        (first, last, stream)
        for _, first, last, stream, state in _rows_of(
            connection, "batch", "number, first_id, last_id, stream, state", integers=4
        )
        if state not in ("pending", "split")
    ]
    rows = list(_waiting(connection, streams, settled, elsewhere))
    return _Found(streams, settled, rows, _intents(connection))


def _intents(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """The intents, if their table can be read: it is small, and is read whole or not at all."""
    with contextlib.suppress(sqlite3.Error):
        return connection.execute("SELECT * FROM intent").fetchall()
    return []


def _rows_of(
    connection: sqlite3.Connection, table: str, columns: str, *, integers: int
) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read, in the order of its key, which is the first column.

    A damaged row may hold anything: those whose first columns are not integers are left out.
    """
    key = columns.partition(",")[0]
    parts, failed = [(1, _LAST_ID_MAX)], 0
    query = f"SELECT {columns} FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key} LIMIT ?"
    while parts and failed < _FAILED_READS_MAX:
        low, high = parts.pop()
        try:
            rows = connection.execute(query, (low, high, _CHUNK)).fetchall()
        except sqlite3.Error:
            failed += 1
            middle = (low + high) // 2
            parts += [(middle + 1, high), (low, middle)] if low < high else []
            continue
        yield from (row for row in rows if all(type(value) is int for value in row[:integers]))
        if len(rows) == _CHUNK and rows[-1][0] < high:
            parts.append((rows[-1][0] + 1, high))


def _waiting(
    connection: sqlite3.Connection,
    streams: dict[int, tuple[Stream, int]],
    settled: list[tuple[int, int, int]],
    elsewhere: list[Moved],
) -> Iterator[_Row]:
    """The rows that wait, are whole, and are in no other file."""
    done = sorted((first, last) for first, last, _ in settled)
    columns = (
        "id, stream, sequence, batch, envelope, severity, accepted_unix_ns, size, packed, crc, "
        "payload"
    )
    for row in _rows_of(connection, "record", columns, integers=10):
        id_, stream, sequence, batch, envelope, severity, unix_ns, size, packed, crc = row[:10]
        name = streams[stream][0] if stream in streams else Stream("", 0)
        if _is_in(done, id_) or any(moved.has(name, sequence) for moved in elsewhere):
            continue
        with contextlib.suppress(SpoolCorruptError, sqlite3.Error):
            unpack(sequence, packed, crc, row[10])
            entry = Entry(
                _NOBODY, sequence, batch, envelope_of(connection, envelope), severity, unix_ns,
                size, bool(packed), row[10],
            )
            yield _Row(stream, batch, entry)


def _is_in(ranges: list[tuple[int, int]], number: int) -> bool:
    while ranges and ranges[0][1] < number:
        ranges.pop(0)
    return bool(ranges) and ranges[0][0] <= number


def _no_stamp(draft: Draft, sequence: int) -> tuple[bytes, int]:
    raise NotImplementedError("a salvaged record has its stamps")


_NOBODY = Life("", 0, Stream("", 0), _no_stamp)


# -- going on in a new file ---------------------------------------------------


def _store(file: SpoolFile, found: _Found, origins: tuple[str, ...], unix_ns: int) -> int:
    """Store what waits, each run of numbers as a stream's part; name what is lost."""
    parts = itertools.count(1)
    unknown = Stream(new_stream_id(), 1)
    batches: dict[tuple[int, int], int] = {}
    for stream, rows in itertools.groupby(found.rows, key=lambda row: row.stream):
        name = found.streams.get(stream, (unknown, 0))[0]
        for run in _runs([row.entry for row in rows]):
            part = file.begin_moved_stream(
                name, (*origins, f"part-{next(parts)}"), run[0].sequence, unix_ns
            )
            file.insert(part, [
                entry._replace(batch=_renumbered(part, entry.batch, batches, file.last_batch))
                for entry in run
            ])
    _note_gaps(file, found, origins, unix_ns)
    intents.restore(file.connection, found.intents)
    return len(found.rows)


def _renumbered(part: int, batch: int, batches: dict[tuple[int, int], int], after: int) -> int:
    """A batch's number in the new file: one for each part, since a batch has one stream."""
    return batches.setdefault((part, batch), after + 1 + len(batches))


def _runs(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Cut a list where its numbers have a hole."""
    pairs = zip(itertools.count(), entries)
    for _, run in itertools.groupby(pairs, key=lambda pair: pair[1].sequence - pair[0]):
        yield [entry for _, entry in run]


def _note_gaps(file: SpoolFile, found: _Found, origins: tuple[str, ...], unix_ns: int) -> None:
    """Name what can have been lost: an upper bound, since settled rows may be among them."""
    have = Counter(row.stream for row in found.rows)
    for first, last, stream in found.settled:
        have[stream] += last - first + 1
    for stream, (name, last) in found.streams.items():
        if last > have[stream]:
            _note(file, name, origins, unix_ns, last - have[stream], last)
    if not found.streams:
        _note(file, Stream(new_stream_id(), 1), origins, unix_ns, 0, None)


def _note(
    file: SpoolFile,
    name: Stream,
    origins: tuple[str, ...],
    unix_ns: int,
    records: int,
    last: int | None,
) -> None:
    part = file.begin_moved_stream(name, (*origins, "lost"), 1, unix_ns)
    ledger.note_gap(
        file.connection, part, BROKEN, records, unix_ns=unix_ns,
        first_sequence=1 if last else None, last_sequence=last, at_most=True,
        message=f"{origins[0]} could not be read in full",
    )
