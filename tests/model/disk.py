"""What lies in a spool directory: by record, read with SQL of its own."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from model.destination import Arrived, Key, read_stamped
from model.process import gap_name
from otel_memoir.spool.checked import unpack
from otel_memoir.spool.directory import Slot, slots


class Place(NamedTuple):
    """Where a record is and in which state, by one file."""

    file: str
    state: str
    rejected: int


class Loss(NamedTuple):
    """A row of ``gap``."""

    file: str
    stream_id: str
    epoch: int
    cause: str
    records: int
    first: int | None
    last: int | None
    told: bool

    @property
    def name(self) -> str:
        """The name of the record that tells of it."""
        return gap_name(
            self.stream_id, self.epoch, self.cause, self.records, self.first, self.last
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is no loss: another file has the numbers, or names them."""
        return self.cause == "elsewhere"

    def covers(self, key: Key) -> bool:
        """Whether it speaks of a record."""
        mine = (self.stream_id, self.epoch) == key[:2] and self.first is not None
        return mine and (self.first or 0) <= key.sequence <= (self.last or 0)


class Disk:
    """All files of a directory at one moment."""

    def __init__(self, directory: Path) -> None:
        self.places: dict[Key, list[Place]] = defaultdict(list)
        self.rows: list[Arrived] = []
        self.ambiguous: Counter[Key] = Counter()
        self.losses: list[Loss] = []
        self.pending_bytes: dict[str, int] = {}
        self.retained_bytes: dict[str, int] = {}
        self.moved: dict[Key, set[str]] = defaultdict(set)
        for slot in slots(directory):
            self._read(slot)
        self.doubled = sum(self._take_out_moved(key) for key in list(self.moved))

    def _read(self, slot: Slot) -> None:
        uri = f"file:{slot.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            streams = {
                number: (stream_id, epoch) for number, stream_id, epoch in
                connection.execute("SELECT id, stream_id, epoch FROM stream")
            }
            self._read_losses(slot.name, connection, streams)
            self._read_ledger(slot.name, connection, streams)
            self._read_rows(slot.name, connection, streams)
            self._read_moved(connection)
            self._read_sizes(slot.name, connection)

    def _read_ledger(
        self, file: str, connection: sqlite3.Connection, streams: dict[int, tuple[str, int]]
    ) -> None:
        for stream, first, last, state, rejected, ambiguous in connection.execute(
            "SELECT stream, first_sequence, last_sequence, state, rejected, ambiguous FROM batch"
        ):
            for key in (Key(*streams[stream], number) for number in range(first, last + 1)):
                if self._was_refused(file, key):
                    continue
                self.ambiguous[key] += ambiguous
                if state != "split":
                    self.places[key].append(Place(file, state, rejected))

    def _was_refused(self, file: str, key: Key) -> bool:
        """Whether a number inside a batch came to nothing: a full disk took it."""
        return any(
            loss.file == file and loss.covers(key)
            and (loss.cause.startswith("refused:") or loss.is_elsewhere)
            for loss in self.losses
        )

    def _read_rows(
        self, file: str, connection: sqlite3.Connection, streams: dict[int, tuple[str, int]]
    ) -> None:
        ledgered = connection.execute("SELECT coalesce(max(last_id), 0) FROM batch").fetchone()[0]
        for id_, stream, sequence, packed, crc, payload in connection.execute(
            "SELECT id, stream, sequence, packed, crc, payload FROM record ORDER BY id"
        ):
            row = read_stamped(unpack(sequence, packed, crc, payload))
            key = Key(*streams[stream], sequence)
            assert row.key == key, f"{file}: row {id_} is {row.key}, its stamp says {key}"
            self.rows.append(row)
            if id_ > ledgered:
                self.places[key].append(Place(file, "pending", 0))

    def _read_losses(
        self, file: str, connection: sqlite3.Connection, streams: dict[int, tuple[str, int]]
    ) -> None:
        for stream, *values, told in connection.execute(
            "SELECT stream, cause, records, first_sequence, last_sequence, told FROM gap"
        ):
            stream_id, epoch = streams[stream]
            self.losses.append(Loss(file, stream_id, epoch, *values, bool(told)))

    def _read_moved(self, connection: sqlite3.Connection) -> None:
        for stream_id, epoch, first, last, origins in connection.execute(
            "SELECT stream_id, epoch, first, sequence, moved_from FROM stream "
            "WHERE ended = 'moved'"
        ):
            for sequence in range(first, last + 1):
                self.moved[Key(stream_id, epoch, sequence)] |= set(origins.split())

    def _take_out_moved(self, key: Key) -> int:
        """Rows of a left file count where they were moved to, also before it is opened again."""
        places = self.places.get(key, [])
        kept = [place for place in places if place.file not in self.moved[key]]
        if not kept:
            return 0
        self.places[key] = kept
        return len(places) - len(kept)

    def _read_sizes(self, file: str, connection: sqlite3.Connection) -> None:
        pending, ledgered = connection.execute(
            "SELECT coalesce(sum(bytes), 0), (SELECT coalesce(max(last_id), 0) FROM batch) "
            "FROM batch WHERE state = 'pending'"
        ).fetchone()
        fresh = connection.execute(
            "SELECT coalesce(sum(size), 0) FROM record WHERE id > ?", (ledgered,)
        ).fetchone()[0]
        self.pending_bytes[file] = pending + fresh
        self.retained_bytes[file] = connection.execute(
            "SELECT coalesce(sum(bytes), 0) FROM batch WHERE pruned = 0 "
            "AND state IN ('delivered', 'rejected')"
        ).fetchone()[0]
