"""One open spool file: its identity, its streams, its rows.

Everything here happens on the one writing connection of the process that holds
the slot. Nothing here is thread-safe: the caller holds the commit lock, or is
the only one who knows the file (an adopter).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from otel_memoir.errors import SpoolCorruptError
from otel_memoir.spool import schema
from otel_memoir.spool.checked import checksum, digest_of, envelope_of, unpack
from otel_memoir.spool.connection import (
    MEMORY,
    open_reader,
    open_writer,
    set_synchronous,
    transaction,
)
from otel_memoir.spool.directory import SlotLock, sync_directory
from otel_memoir.spool.model import Entry, Stream

_ENVELOPES_CACHED = 1024
_LOG_BYTES_MAX = 4 * 2**20

# Each step of a statement gives the interpreter away. Row by row, a commit among busy
# emitters took 20 ms instead of 2. 11 values times 32 are below SQLite's old limit of 999.
_ROWS_AT_ONCE = 32
_INSERTS = [
    f"INSERT INTO record VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'] * rows)}"
    for rows in range(_ROWS_AT_ONCE + 1)
]

abandoned: list[object] = []
"""Connections of a parent process. Closing one in a fork child would run SQLite's
clean-up on files that the parent still uses (sqlite.org/howtocorrupt, 2.6), so
they are kept from the garbage collector."""


class SpoolFile:
    """An open file of a held slot.

    Args:
        lock: The held slot; ``None`` keeps everything in memory.

        synchronous: How durable a commit is: ``FULL`` or ``NORMAL``.
    """

    def __init__(self, lock: SlotLock | None, *, synchronous: str = "FULL") -> None:
        self.lock = lock
        self.path: Path | str = lock.slot.database if lock else MEMORY
        self.name = lock.slot.name if lock else "memory"
        self._reader: sqlite3.Connection | None = None
        self._envelope_ids: dict[bytes, int] = {}
        self._envelopes: dict[int, bytes] = {}
        self._synchronous = synchronous
        self._log_bytes = 0
        if lock is not None:
            schema.check_untouched(lock.slot.database)
        self.connection = open_writer(self.path, synchronous=synchronous)
        try:
            self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        if self.lock is not None:
            os.chmod(self.path, 0o600)
        self._found_at = schema.birthmark(self.path)
        schema.prepare(self.connection, self.path)
        if self.lock is not None:
            sync_directory(self.lock.slot.directory)
        self._log_path = f"{self.path}-wal"
        self._log_found_at = schema.birthmark(self._log_path)
        self.count_rows()

    def count_rows(self) -> None:
        """Read from the file where its rows and its ledger end."""
        last = "SELECT coalesce(max(id), 0) FROM record"
        ledgered = "SELECT coalesce(max(last_id), 0) FROM batch"
        self.ledgered_id = self._number(ledgered)
        self.last_id = max(self._number(last), self.ledgered_id)
        self.last_batch = max(
            self._number("SELECT coalesce(max(number), 0) FROM batch"),
            self._number("SELECT coalesce(max(batch), 0) FROM record WHERE id = "
                         "(SELECT max(id) FROM record)"),
        )

    def _number(self, sql: str, *args: object) -> int:
        return int(self.connection.execute(sql, args).fetchone()[0])

    # -- identity and streams -------------------------------------------------

    def begin_stream(
        self, unix_ns: int, *, reserve: int = 0, living: int = 0
    ) -> tuple[int, Stream]:
        """Begin a new life on this file; on return it is as durable as a commit.

        Earlier lives that did not end by themselves are ended here, and the
        sequence numbers that they may have given out become a gap.

        Args:
            unix_ns: When that is.

            reserve: How many numbers it may give out before they are stored.

            living: The stream that the caller ends itself, if there is one.

        Returns:
            The stream's number in this file, and its name for the world.
        """
        with transaction(self.connection):
            self._end_lost_streams(unix_ns, living)
            stream_id = self._own_stream_id()
            epoch = self._number(
                "SELECT coalesce(max(epoch), 0) + 1 FROM stream WHERE stream_id = ?", stream_id
            )
            self.connection.execute(
                "INSERT INTO stream (stream_id, epoch, began_unix_ns, reserved) "
                "VALUES (?, ?, ?, ?)", (stream_id, epoch, unix_ns, reserve),
            )
            number = self._number("SELECT last_insert_rowid()")
            after_ns = self._number("SELECT max(last_unix_ns) FROM stream")
        if self.lock is not None:
            self.lock.note_lives(epoch)
        return number, Stream(stream_id, epoch, after_ns)

    def _own_stream_id(self) -> str:
        stream_id, mark = self.connection.execute(
            "SELECT stream_id, birthmark FROM file"
        ).fetchone()
        here = schema.birthmark(self.path)
        # The lock file remembers the last life: a restored file knows of fewer.
        lived = self._number(
            "SELECT coalesce(max(epoch), 0) FROM stream WHERE stream_id = ?", stream_id
        )
        if mark == here and (self.lock is None or self.lock.lives() <= lived):
            return str(stream_id)
        stream_id = schema.new_stream_id()
        self.connection.execute("UPDATE file SET stream_id = ?, birthmark = ?", (stream_id, here))
        return stream_id

    def has_lost_streams(self) -> bool:
        """Whether a life on this file did not end by itself and was not ended yet."""
        return bool(self._number("SELECT count(*) FROM stream WHERE ended = ''"))

    def end_lost_streams(self, unix_ns: int) -> None:
        """End the lives of processes that died, and write down what they may have lost."""
        with transaction(self.connection):
            self._end_lost_streams(unix_ns)

    def _end_lost_streams(self, unix_ns: int, living: int = 0) -> None:
        self.connection.execute(
            "INSERT INTO gap (stream, cause, records, first_sequence, last_sequence, at_most, "
            "message, noticed_unix_ns) SELECT id, 'unclean_end', reserved - sequence, "
            "sequence + 1, reserved, 1, 'the process died with records in memory', ? "
            "FROM stream WHERE ended = '' AND id != ? AND reserved > sequence",
            (unix_ns, living),
        )
        self.connection.execute(
            "UPDATE stream SET ended = 'unclean' WHERE ended = '' AND id != ?", (living,)
        )

    def end_stream(self, number: int, sequence: int) -> None:
        """Write down that a life ended by itself, and every number it gave out is stored."""
        with transaction(self.connection):
            self.connection.execute(
                "UPDATE stream SET ended = 'clean', reserved = sequence "
                "WHERE id = ? AND sequence = ?", (number, sequence),
            )

    def stored_sequence(self, stream: int) -> int:
        """The last sequence number of a stream that a commit made visible."""
        return self._number("SELECT coalesce(max(sequence), 0) FROM stream WHERE id = ?", stream)

    def pass_over(self, stream: int, sequence: int) -> None:
        """Write down that a stream gave out a number that no record has."""
        self.connection.execute(
            "UPDATE stream SET sequence = max(sequence, ?), reserved = max(reserved, ?) "
            "WHERE id = ?", (sequence, sequence, stream),
        )

    def beats(self) -> int:
        """How many commits with chores this file has seen."""
        return self._number("SELECT beats FROM courier")

    def beat(self) -> int:
        """Count a commit with chores, inside it; return how many there are."""
        self.connection.execute("UPDATE courier SET beats = beats + 1")
        return self.beats()

    def newest_stream(self) -> int:
        """The number of the stream that began last."""
        return self._number("SELECT coalesce(max(id), 0) FROM stream")

    def stream(self, number: int) -> Stream:
        """The name of a stream of this file."""
        # Not by the writing connection: the courier asks, and a failover closes that one
        # beside it, which crashes the interpreter (seen).
        found = self.reader.execute(
            "SELECT stream_id, epoch FROM stream WHERE id = ?", (number,)
        ).fetchone()
        return Stream(*found)

    # -- writing --------------------------------------------------------------

    def insert(self, stream: int, entries: Sequence[Entry], *, reserve: int = 0) -> None:
        """Store entries of one stream, inside the caller's transaction.

        ``last_id`` moves on with it; a caller that rolls back puts it back.
        """
        next_id, size = self.last_id + 1, 0
        for start in range(0, len(entries), _ROWS_AT_ONCE):
            some = entries[start : start + _ROWS_AT_ONCE]
            values: list[object] = []
            for entry in some:
                values += (
                    next_id, stream, entry.sequence, entry.batch,
                    self._envelope_id(entry.envelope), entry.severity, entry.unix_ns, entry.size,
                    entry.packed, checksum(entry.sequence, entry.payload), entry.payload,
                )
                next_id += 1
                size += entry.size
            self.connection.execute(_INSERTS[len(some)], values)
        self.last_id += len(entries)
        last = entries[-1].sequence
        self.connection.execute(
            "UPDATE stream SET sequence = ?, reserved = max(reserved, ?), "
            "accepted = accepted + ?, accepted_bytes = accepted_bytes + ?, last_unix_ns = ? "
            "WHERE id = ?",
            (last, last + reserve, len(entries), size, entries[-1].unix_ns, stream),
        )

    def _envelope_id(self, envelope: bytes) -> int:
        found = self._envelope_ids.get(envelope)
        if found is None:
            digest = digest_of(envelope)
            self.connection.execute(
                "INSERT OR IGNORE INTO envelope (digest, bytes) VALUES (?, ?)", (digest, envelope)
            )
            found = self._number("SELECT id FROM envelope WHERE digest = ?", digest)
            if len(self._envelope_ids) >= _ENVELOPES_CACHED:
                self._envelope_ids.clear()
            self._envelope_ids[envelope] = found
        return found

    def rolled_back(self, last_id: int) -> None:
        """Forget the row and envelope ids that a rolled-back transaction had given out."""
        self.last_id = last_id
        self._envelope_ids.clear()

    def begin_moved_stream(
        self, stream: Stream, origins: Sequence[str], first: int, unix_ns: int
    ) -> int:
        """Begin the part of another file's stream whose rows are stored here instead.

        Inside the caller's transaction. The rows count here and, where one of the other
        files turns out to have them too, not there (``moved.py``).
        """
        self.connection.execute(
            "INSERT INTO stream "
            "(stream_id, epoch, began_unix_ns, ended, first, sequence, moved_from) "
            "VALUES (?, ?, ?, 'moved', ?, ?, ?)",
            (stream.stream_id, stream.epoch, unix_ns, first, first - 1, " ".join(origins)),
        )
        return self._number("SELECT last_insert_rowid()")

    @contextlib.contextmanager
    def synced(self) -> Iterator[None]:
        """Make commits of the block return only after fsync, whatever the durability."""
        if self._synchronous == "FULL":
            yield
            return
        set_synchronous(self.connection, "FULL")
        try:
            yield
        finally:
            set_synchronous(self.connection, self._synchronous)

    def note_written(self, size: int) -> None:
        """Take note of so many bytes that went into the log, beyond what a chore writes."""
        self._log_bytes += size

    def keep_log_short(self, size: int) -> None:
        """Checkpoint, where SQLite does not do it by itself, once there is much in the log.

        Args:
            size: Bytes that were written since this was called last, about.

        Raises:
            sqlite3.Error: An fsync failed: what no earlier one covered may be gone.
        """
        self.note_written(size)
        if self._synchronous == "NORMAL" and self._log_bytes > _LOG_BYTES_MAX:
            self._log_bytes = 0
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def truncate_log(self) -> None:
        """Give the write-ahead log's room back to the file system, unless somebody reads."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # -- reading --------------------------------------------------------------

    @property
    def reader(self) -> sqlite3.Connection:
        """A connection for reads that must not hold up the emitters."""
        # Not by the lock: a left file has none any more, and its writer is being closed.
        if self.path == MEMORY:
            return self.connection
        reader = self._reader  # once: a failover may take it away beside us
        if reader is None:
            reader = self._reader = open_reader(Path(self.path))
        return reader

    def rows(self, first_id: int, last_id: int) -> tuple[list[tuple[bytes, bytes]], dict[int, str]]:
        """Read the rows of a range.

        Returns:
            The envelope and payload of each row that is what was written, in order; and
            what is wrong with each of the others, by id.
        """
        query = (
            "SELECT id, sequence, envelope, packed, crc, payload FROM record "
            "WHERE id BETWEEN ? AND ? ORDER BY id"
        )
        found = self.reader.execute(query, (first_id, last_id)).fetchall()
        rows: list[tuple[bytes, bytes]] = []
        wrong: dict[int, str] = {}
        for id_, sequence, envelope, packed, crc, payload in found:
            try:
                whole = unpack(sequence, packed, crc, payload)
                rows.append((self._envelopes.get(envelope) or self._envelope(envelope), whole))
            except SpoolCorruptError as error:
                wrong[id_] = str(error)
        if len(found) <= last_id - first_id:
            there = {row[0] for row in found}
            missing = [id_ for id_ in range(first_id, last_id + 1) if id_ not in there]
            wrong.update(dict.fromkeys(missing, "the row is missing"))
        return rows, wrong

    def _envelope(self, id_: int) -> bytes:
        if len(self._envelopes) >= _ENVELOPES_CACHED:
            self._envelopes.clear()
        found = self._envelopes[id_] = envelope_of(self.reader, id_)
        return found

    def last_envelope(self) -> bytes | None:
        """The newest envelope: what the writer of this file last called itself."""
        row = self.reader.execute("SELECT bytes FROM envelope ORDER BY id DESC LIMIT 1").fetchone()
        return bytes(row[0]) if row else None

    def removed(self) -> str:
        """Which of its files somebody removed or replaced while it is in use; or none."""
        if self.lock is None:
            return ""
        for path, found_at in ((self.path, self._found_at), (self._log_path, self._log_found_at)):
            # A reader that opens the file makes a new, empty log where there is none.
            if schema.birthmark(path) != found_at:
                return str(path)
        return "" if self.lock.is_in_place() else str(self.lock.slot.lock_file)

    # -- the end --------------------------------------------------------------

    def take_reader(self) -> sqlite3.Connection | None:
        """Give the reading connection away, for the caller to close when nobody reads."""
        reader, self._reader = self._reader, None
        return reader

    def close(self) -> None:
        """Close the file and give the slot back. The caller sees to it that nobody reads."""
        try:
            self.close_connections()
        finally:
            if self.lock is not None:
                self.lock.release()

    def close_connections(self) -> None:
        """Close the file, but keep the slot. The caller sees to it that nobody reads."""
        reader = self.take_reader()
        if reader is not None:
            reader.close()
        self.connection.close()

    def abandon(self) -> None:
        """In a fork child: let go of the parent's file without touching it."""
        abandoned.extend((self.connection, self._reader))
        if self.lock is not None:
            self.lock.abandon()
