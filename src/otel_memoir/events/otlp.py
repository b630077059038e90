"""Events as OTLP bytes: the inside of one ``LogRecord`` message.

Reads what the spool keeps: stamps are appended to a payload, so a field that is there
twice counts as it was said last, attributes included.
"""

from __future__ import annotations

from collections.abc import Iterator

from otel_memoir.events.content import Capture
from otel_memoir.events.model import MemoryEvent
from otel_memoir.events.reading import Opaque, read, write

_FORM = "OTLP"


def to_otlp(event: MemoryEvent | Opaque, *, capture: Capture | None = None) -> bytes:
    """An event as the bytes of a ``LogRecord`` message.

    Args:
        event: The event. What was read from OTLP as ``Opaque`` comes out byte for byte.

        capture: What the user opted in to; by default what the environment says now.
    """
    from otel_memoir.events import otlp_messages

    if isinstance(event, Opaque) and event.form == _FORM:
        return bytes(event.original)
    return otlp_messages.payload_of(write(event, capture))


def from_otlp(payload: bytes) -> MemoryEvent | Opaque:
    """Read the bytes of a ``LogRecord`` message.

    Raises:
        EventError: They are no such message.
    """
    from otel_memoir.events import otlp_messages

    return read(otlp_messages.record_of(payload), form=_FORM, original=payload)


def from_otlp_request(request: bytes) -> Iterator[MemoryEvent | Opaque]:
    """Read every record of an ``ExportLogsServiceRequest``, in its order.

    Raises:
        EventError: The bytes are no such message.
    """
    from otel_memoir.events import otlp_messages

    for record, payload in otlp_messages.records_of(request):
        yield read(record, form=_FORM, original=payload)
