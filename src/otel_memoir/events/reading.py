"""What becomes of a record: an event, or ``Opaque`` where it is none; and back.

What an event is, is decided here once for all forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from otel_memoir.errors import EventError
from otel_memoir.events import names, versions
from otel_memoir.events.content import Capture, capture_mode
from otel_memoir.events.model import MemoryEvent
from otel_memoir.events.record import Record
from otel_memoir.events.tables import EVENTS
from otel_memoir.events.values import thaw

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """A record that cannot be read as an event, and is passed on untouched.

    Attributes:
        record: What could be read of it.

        reason: Why it is no event to us.

        form: The form that it was read from.

        original: What it was read from. Written in the same form, it is this again.
    """

    record: Record
    reason: str
    form: str
    original: Any = field(repr=False)

    @property
    def name(self) -> str:
        """Its event name, or ""."""
        return self.record.name

    @property
    def schema_version(self) -> int | None:
        """The version that it says it has; ``None`` where it says none."""
        return versions.version_of(self.record)


def parsed(parse: Callable[[Any], T], document: Any) -> T:
    """What a parser makes of a document.

    Raises:
        EventError: The document is not of the form that the parser expects.
    """
    try:
        return parse(document)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise EventError(
            "read event", target=type(document).__name__, cause=repr(error),
            hint="Give what the function of the same form wrote, or json.loads made of it.",
        ) from error


def read(record: Record, *, form: str, original: Any) -> MemoryEvent | Opaque:
    """Read a record as an event, through the upcasters if it is older.

    Returns:
        The event; or the record with the reason why it is none: it is of a newer
        version, of another kind, or does not say what its kind has to say.
    """
    try:
        return _event(versions.UPCASTERS.upcast(record))
    except EventError as error:
        return Opaque(record=record, reason=str(error), form=form, original=original)


def _event(record: Record) -> MemoryEvent:
    if record.name not in EVENTS:
        raise EventError("read event", target=repr(record.name), cause="no such event")
    return MemoryEvent(
        record.name, attributes=record.attributes, time_unix_ns=record.time_unix_ns,
        observed_unix_ns=record.observed_unix_ns, severity=record.severity or None,
        trace=record.trace,
    )


def write(event: MemoryEvent | Opaque, capture: Capture | None) -> Record:
    """The record to write for an event, without content unless it may be told.

    Args:
        event: The event, or a record of another form to be passed on.

        capture: What the user opted in to; by default what the environment says now.
    """
    told = (capture or capture_mode()).on_events
    if isinstance(event, Opaque):
        found = event.record
        kept = {k: v for k, v in found.attributes.items() if told or k not in names.CONTENT}
        return Record(
            name=found.name, attributes=kept, time_unix_ns=found.time_unix_ns,
            observed_unix_ns=found.observed_unix_ns, severity=found.severity,
            trace=found.trace, body=found.body,
        )
    return Record(
        name=event.name, attributes=thaw(event.to_attributes(content=told)),
        time_unix_ns=event.time_unix_ns, observed_unix_ns=event.observed_unix_ns,
        severity=event.severity or 0, trace=event.trace, body=event.body,
    )
