"""What a query gives back: retained events, pages of them, and where to go on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from google.protobuf.message import DecodeError
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.delivery.request import build_request
from otel_memoir.errors import MemoirError, SpoolError
from otel_memoir.events import MemoryEvent, Opaque, from_otlp
from otel_memoir.spool import State
from otel_memoir.spool.index import Place
from otel_memoir.spool.rows import StoredRecord
from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.readers import ReadRecord, event_of, records_of_request


@dataclass(frozen=True, kw_only=True)
class RetainedEvent:
    """A record that a local spool still holds, as it was when it was read.

    Attributes:
        directory: The spool directory.

        file: The spool file.

        place: Where it stands in the order of all: time of its stamp in unix ns, stream,
            epoch, sequence, uid.

        stored: What the file holds.
    """

    directory: Path
    file: Path
    place: Place
    stored: StoredRecord = field(repr=False)

    @property
    def state(self) -> State:
        """What became of it so far."""
        return self.stored.state

    @property
    def problem(self) -> str:
        """Why it cannot be read, if it is damaged; empty otherwise."""
        return self.stored.problem

    @property
    def time(self) -> str:
        """The time of its stamp, ISO 8601 in UTC, to the nanosecond."""
        return moment(self.place.unix_ns)

    @cached_property
    def event(self) -> MemoryEvent | Opaque | None:
        """The event; the record, where it is none of ours; ``None`` where neither can be read."""
        try:
            return None if self.problem else from_otlp(self.stored.payload)
        except MemoirError:
            return None

    @cached_property
    def log(self) -> LogRecord:
        """The OTLP record, stamps included; an empty one where it cannot be read."""
        try:
            return LogRecord.FromString(self.stored.payload)
        except DecodeError:
            return LogRecord()

    @cached_property
    def stamp(self) -> StampedEvent:
        """Its stamp, by which ``stamping.resolution`` orders it; its payload is this value."""
        # The row knows the stamp's time also of a record that has a time of its own.
        unix_ns, stream_id, epoch, sequence, uid = self.place
        found = event_of(self.log) or StampedEvent(
            uid=uid, stream=stream_id, epoch=epoch, sequence=sequence, unix_ns=unix_ns
        )
        return replace(found, unix_ns=unix_ns, payload=self)

    @cached_property
    def read(self) -> ReadRecord:
        """The record with its resource and its scope.

        Raises:
            SpoolError: It is damaged.
        """
        if self.problem:
            raise SpoolError("read", target=self.file, cause=self.problem)
        stored = self.stored
        return next(records_of_request(build_request([(stored.envelope, stored.payload)])))


def moment(unix_ns: int) -> str:
    """A time in UTC, to the nanosecond: between records of one stream that can be all there is."""
    seconds, ns = divmod(unix_ns, 10**9)
    try:
        whole = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{unix_ns} ns"
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the events that were asked for, in order.

    Attributes:
        events: The events.

        cursor: Pass it as ``after`` to go on from here, also after a restart.

        has_more: Whether there were more.

        problems: Files that could not be read, and why: of them nothing is here.
    """

    events: tuple[RetainedEvent, ...]
    cursor: str
    has_more: bool
    problems: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[RetainedEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


def cursor_of(place: Place | None) -> str:
    """A place as opaque text; empty for the beginning."""
    if place is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def place_of(cursor: str | None) -> Place | None:
    """The place that a cursor stands for.

    Raises:
        SpoolError: It is no cursor.
    """
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        unix_ns, stream_id, epoch, sequence, uid = json.loads(text)
        return Place(int(unix_ns), str(stream_id), int(epoch), int(sequence), str(uid))
    except (ValueError, TypeError) as error:
        raise SpoolError(
            "go on after", target=repr(cursor)[:60], cause="it is no cursor",
            hint="Pass a page's cursor as it is.",
        ) from error
