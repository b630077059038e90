"""Events as OTel's ``LogRecord``, which is what ``Logger.emit`` takes."""

from __future__ import annotations

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from otel_memoir.events.content import Capture
from otel_memoir.events.model import MemoryEvent, TraceRef
from otel_memoir.events.reading import Opaque, parsed, read, write
from otel_memoir.events.record import Record, severity_text

_FORM = "LogRecord"


def current_trace(context: Context | None = None) -> TraceRef | None:
    """The span of a context, by default the current one; ``None`` if there is no span."""
    span = get_current_span(context).get_span_context()
    if not span.is_valid:
        return None
    return TraceRef(span.trace_id, span.span_id, int(span.trace_flags))


def to_log_record(
    event: MemoryEvent | Opaque,
    *,
    capture: Capture | None = None,
    context: Context | None = None,
) -> LogRecord:
    """An event as a ``LogRecord``.

    Args:
        event: The event.

        capture: What the user opted in to; by default what the environment says now.

        context: What else processors shall see, such as baggage. Its span is not taken:
            an event has the span that it names, or none (see ``current_trace``).

    Returns:
        A new record. One that has no observed timestamp gets the time of this call.
    """
    if isinstance(event, Opaque) and event.form == _FORM:
        return event.original  # type: ignore[no-any-return]
    record = write(event, capture)
    text = severity_text(record.severity)
    return LogRecord(
        timestamp=record.time_unix_ns, observed_timestamp=record.observed_unix_ns,
        context=_context(record.trace, context),
        severity_number=SeverityNumber(record.severity) if text else None,
        severity_text=text or None,
        body=record.body, attributes=record.attributes, event_name=record.name or None,
    )


def _context(trace: TraceRef | None, context: Context | None) -> Context:
    # Given no context, or an empty one, the API would take the current one.
    base = Context() if context is None else context
    if trace is None:
        return set_span_in_context(INVALID_SPAN, base)
    span = SpanContext(trace.trace_id, trace.span_id, False, TraceFlags(trace.flags))
    return set_span_in_context(NonRecordingSpan(span), base)


def from_log_record(record: LogRecord) -> MemoryEvent | Opaque:
    """Read a ``LogRecord``: the API's own, or the ``log_record`` of the SDK's records.

    Raises:
        EventError: A field of it has a value that no record can have.
    """
    return read(parsed(_record, record), form=_FORM, original=record)


def _record(record: LogRecord) -> Record:
    trace = None
    if record.trace_id:
        flags = int(record.trace_flags or 0)
        trace = TraceRef(record.trace_id, record.span_id or 0, flags)
    return Record(
        name=record.event_name or "", attributes=dict(record.attributes or {}),
        time_unix_ns=record.timestamp or None,
        observed_unix_ns=record.observed_timestamp or None,
        severity=record.severity_number.value if record.severity_number else 0,
        trace=trace, body=record.body,
    )
