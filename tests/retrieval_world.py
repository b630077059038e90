"""Spool files as a test wants them, written by the product's own file layer, and a plain reader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from otel_memoir.delivery.encoding import StampTemplate, join_envelope
from otel_memoir.events import MemoryEvent, from_otlp, to_otlp
from otel_memoir.retrieval.query import RetainedEvent
from otel_memoir.spool import State, ledger
from otel_memoir.spool.connection import transaction
from otel_memoir.spool.directory import Slot, prepare_directory, slots, try_lock
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Batch, Draft, Entry, Life
from otel_memoir.spool.rows import StoredRecord, stored_records
from otel_memoir.stamping import new_uid

ENVELOPE = join_envelope(b"\x0a\x00", b"\x0a\x00")
NOON_NS = 1_764_000_000 * 10**9

Shown = tuple[tuple[Any, ...], str]
"""An event's place, and what became of it."""


def no_stamp(draft: Draft, sequence: int) -> tuple[bytes, int]:
    """The payloads have their stamps."""
    raise NotImplementedError


class Writer:
    """A process that writes one slot: rows, batches and what becomes of them.

    Args:
        directory: Where.

        number: The slot.
    """

    def __init__(self, directory: Path, number: int = 1) -> None:
        prepare_directory(directory)
        lock = try_lock(Slot(directory, number))
        assert lock is not None
        self.file = SpoolFile(lock, synchronous="NORMAL")
        self.begin()

    def begin(self) -> None:
        """Begin another life."""
        self.number, self.stream = self.file.begin_stream(NOON_NS)
        self._stamp = StampTemplate(self.stream.stream_id, self.stream.epoch)
        self._life = Life("", self.number, self.stream, no_stamp)
        self.sequence = 0

    def append(
        self, event: MemoryEvent | bytes, unix_ns: int, *, uid: str = "", batch: int = 0
    ) -> str:
        """Store an event; return its uid."""
        self.sequence += 1
        uid = uid or new_uid()
        payload = event if isinstance(event, bytes) else to_otlp(event)
        payload += self._stamp.suffix(uid, self.sequence, unix_ns, error_bound_ns=1000)
        entry = Entry(
            self._life, self.sequence, batch or self.file.last_batch + 1, ENVELOPE, 9, unix_ns,
            len(payload), False, payload,
        )
        with transaction(self.file.connection):
            self.file.insert(self.number, [entry])
        return uid

    def take_over(self, other: Writer) -> None:
        """Store another file's waiting rows again, as after a commit of it that raised."""
        rows = other.file.connection.execute(
            "SELECT sequence, severity, accepted_unix_ns, size, packed, payload FROM record "
            "WHERE stream = ? AND id > (SELECT coalesce(max(last_id), 0) FROM batch) ORDER BY id",
            (other.number,),
        ).fetchall()
        with transaction(self.file.connection):
            part = self.file.begin_moved_stream(
                other.stream, (other.file.name,), rows[0][0], NOON_NS
            )
            self.file.insert(part, [
                Entry(self._life, sequence, self.file.last_batch + 1, ENVELOPE, severity, unix_ns,
                      size, bool(packed), payload)
                for sequence, severity, unix_ns, size, packed, payload in rows
            ])

    def settle(self, state: State, count: int = 10**6) -> None:
        """Make a batch of the next rows that have none; settle it, or let it wait."""
        connection = self.file.connection
        rows = connection.execute(
            "SELECT id, sequence, stream, size FROM record WHERE id > "
            "(SELECT coalesce(max(last_id), 0) FROM batch) ORDER BY id LIMIT ?", (count,),
        ).fetchall()
        rows = [row for row in rows if row[2] == rows[0][2]]
        if not rows:
            return
        self.file.last_batch += 1
        batch = Batch(
            number=self.file.last_batch, stream=rows[0][2], first_id=rows[0][0],
            last_id=rows[-1][0], first_sequence=rows[0][1], last_sequence=rows[-1][1],
            records=len(rows), bytes=sum(row[3] for row in rows),
        )
        with transaction(connection):
            ledger.open_batch(connection, batch)
            if state is not State.PENDING:
                ledger.settle(connection, batch, state, unix_ns=NOON_NS)

    def prune(self, which: int = 0) -> None:
        """Delete the rows of a settled batch, as the upkeep does."""
        connection = self.file.connection
        batches = connection.execute(
            "SELECT number, first_id, last_id FROM batch WHERE pruned = 0 AND state NOT IN "
            "('pending', 'split', 'quarantined') ORDER BY first_id"
        ).fetchall()
        if batches:
            number, first, last = batches[which % len(batches)]
            with transaction(connection):
                connection.execute("DELETE FROM record WHERE id BETWEEN ? AND ?", (first, last))
                connection.execute("UPDATE batch SET pruned = 1 WHERE number = ?", (number,))

    def close(self) -> None:
        """Let go of the slot."""
        self.file.close()


@contextlib.contextmanager
def writer(directory: Path, number: int = 1) -> Iterator[Writer]:
    """A writer for a block."""
    made = Writer(directory, number)
    with contextlib.closing(made):
        yield made


# -- the plain reader ------------------------------------------------------------


def shown(events: Iterable[RetainedEvent]) -> list[Shown]:
    """What a test compares of events."""
    return [(tuple(event.place), event.state.value) for event in events]


def scanned(
    directories: Sequence[Path], *, newest_first: bool = False, **filters: Any
) -> list[Shown]:
    """What there is, by reading all of it and looking at each event as a value."""
    found: dict[tuple[Any, ...], str] = {}
    for row in (r for d in directories for slot in slots(d) for r in stored_records(slot.database)):
        event = from_otlp(row.payload)
        attributes = _attributes(event)
        place = (row.stamped_unix_ns, row.stream.stream_id, row.stream.epoch, row.sequence,
                 attributes.get("log.record.uid", ""))
        state = row.state.value
        if place in found and _further(found[place]) <= _further(state):
            continue
        found[place] = state
        if not _has(event, attributes, row, filters):
            del found[place]
    states = filters.get("state")
    return sorted(
        ((place, state) for place, state in found.items() if not states or state in states),
        reverse=newest_first,
    )


def _further(state: str) -> int:
    return {"delivered": 0, "pending": 2}.get(state, 1)


def _attributes(event: Any) -> dict[str, Any]:
    if isinstance(event, MemoryEvent):
        return event.to_attributes()
    return dict(event.record.attributes)


def _has(event: Any, attributes: dict[str, Any], row: StoredRecord, asked: dict[str, Any]) -> bool:
    trace = event.trace if isinstance(event, MemoryEvent) else event.record.trace
    words = {
        "event": {event.name},
        "store": {attributes.get("gen_ai.memory.store.id")},
        "record": {
            attributes.get("gen_ai.memory.record.id"),
            attributes.get("memoir.record.superseded_by"),
            *(id_ for key in ("record.ids", "record.derived_from", "input.record_ids",
                              "output.record_ids") for id_ in attributes.get(f"memoir.{key}", ())),
        },
        "agent": {attributes.get("gen_ai.agent.id"), attributes.get("gen_ai.agent.name")},
        "conversation": {attributes.get("gen_ai.conversation.id")},
        "trace": {f"{trace.trace_id:032x}" if trace else None},
        "stream": {row.stream.stream_id},
        "uid": {attributes.get("log.record.uid")},
    }
    return (
        all(words[key] & set(asked[key]) for key in words if asked.get(key))
        and asked.get("since", 0) <= row.stamped_unix_ns < asked.get("until", 2**63)
        and asked.get("first_sequence", 0) <= row.sequence <= asked.get("last_sequence", 2**63)
    )
