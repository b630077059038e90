"""Events as CloudEvents 1.0 in JSON, with the extensions sequence and distributed tracing.

What CloudEvents has a place for stands there and nowhere else: the uid is ``id``, stream
and epoch are ``source``, the sequence number is ``sequence`` (text that compares as the
numbers do). All else is ``data``: attributes in plain JSON, and in OTLP JSON's ``AnyValue``
what plain JSON cannot say without loss (bytes, NaN, integers above 2⁵³).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, unquote

from otel_memoir.errors import EventError
from otel_memoir.events import names
from otel_memoir.events.content import Capture
from otel_memoir.events.model import MemoryEvent, TraceRef
from otel_memoir.events.otlp_json import from_any_value, to_any_value
from otel_memoir.events.reading import Opaque, parsed, read, write
from otel_memoir.events.record import Record

_FORM = "CloudEvents"
_SOURCE = "urn:otel-memoir:stream"
_SCHEMA = "urn:otel-memoir:schema"
_STAMPS = (names.LOG_RECORD_UID, names.STREAM_ID, names.STREAM_EPOCH, names.SEQUENCE)
_SEQUENCE_DIGITS = 20
_EXACT_IN_JSON = 2**53
_ANY_VALUE = ("stringValue", "boolValue", "intValue", "doubleValue", "bytesValue", "arrayValue",
              "kvlistValue")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def to_cloud_event(
    event: MemoryEvent | Opaque, *, capture: Capture | None = None
) -> dict[str, Any]:
    """An event as a CloudEvent in JSON, ready for ``json.dumps``.

    Args:
        event: A stamped event: CloudEvents are not without id and source.

        capture: What the user opted in to; by default what the environment says now.

    Raises:
        EventError: The event has no stamps.
    """
    if isinstance(event, Opaque) and event.form == _FORM:
        return dict(event.original)
    record = write(event, capture)
    attributes = dict(record.attributes)
    stamps = [attributes.pop(name, None) for name in _STAMPS]
    if None in stamps:
        missing = _STAMPS[stamps.index(None)]
        raise EventError(
            "write CloudEvent", target=record.name, cause=f"{missing} is missing",
            hint="Only emitted events have stamps: read it from the spool or the backend.",
        )
    return {
        "specversion": "1.0", "type": record.name, **_from_stamps(*stamps), **_context(record),
        "datacontenttype": "application/json", "data": _data(record, attributes),
    }


def _from_stamps(uid: str, stream_id: str, epoch: int, sequence: int) -> dict[str, Any]:
    return {
        "id": uid, "source": f"{_SOURCE}:{quote(stream_id, safe='')}:{epoch}",
        "sequence": f"{sequence:0{_SEQUENCE_DIGITS}d}",
    }


def _context(record: Record) -> dict[str, Any]:
    attributes, trace = record.attributes, record.trace
    subject = attributes.get(names.GEN_AI_MEMORY_RECORD_ID) or attributes.get(
        names.GEN_AI_MEMORY_STORE_ID)
    fields = {
        "subject": subject,
        "time": record.time_unix_ns and _to_rfc3339(record.time_unix_ns),
        "dataschema": f"{_SCHEMA}:{attributes.get(names.SCHEMA_VERSION, 0)}",
        "traceparent": trace and trace.span_id and (
            f"00-{trace.trace_id:032x}-{trace.span_id:016x}-{trace.flags & 0xFF:02x}"),
    }
    return {name: value for name, value in fields.items() if value}


def _data(record: Record, attributes: dict[str, Any]) -> dict[str, Any]:
    data = {
        "body": record.body,
        "severityNumber": record.severity,
        "attributes": {key: _plain(value) for key, value in attributes.items()},
    }
    if record.observed_unix_ns:
        data["observedTimeUnixNano"] = str(record.observed_unix_ns)
    if record.trace and (record.trace.flags >> 8 or not record.trace.span_id):
        # W3C's traceparent has eight flags, and is not without a span.
        data |= {"traceId": f"{record.trace.trace_id:032x}", "flags": record.trace.flags}
    return data


def _plain(value: Any) -> Any:
    """A value in JSON; in the form of an ``AnyValue`` where plain JSON would change it."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in _ANY_VALUE:
            return to_any_value(value)
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes) or (isinstance(value, int) and abs(value) > _EXACT_IN_JSON):
        return to_any_value(value)
    if isinstance(value, float):
        return value if value - value == 0 else to_any_value(value)
    return value


def _to_rfc3339(unix_ns: int) -> str:
    seconds, nanoseconds = divmod(unix_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def from_cloud_event(document: Mapping[str, Any]) -> MemoryEvent | Opaque:
    """Read a CloudEvent that was written by ``to_cloud_event``, as ``json.loads`` gives it.

    Raises:
        EventError: It is no CloudEvent, or not one of these.
    """
    return read(parsed(_record, document), form=_FORM, original=document)


def _record(document: Mapping[str, Any]) -> Record:
    if document["specversion"] != "1.0":
        raise ValueError("not version 1.0 of CloudEvents")
    prefix, stream_id, epoch = document["source"].rsplit(":", 2)
    if prefix != _SOURCE:
        raise ValueError("not written by otel-memoir")
    data, time = document["data"], document.get("time")
    stamps = (document["id"], unquote(stream_id), int(epoch), int(document["sequence"]))
    attributes = {key: _rich(value) for key, value in data["attributes"].items()}
    return Record(
        name=document["type"], attributes={**dict(zip(_STAMPS, stamps)), **attributes},
        time_unix_ns=_from_rfc3339(time) if time else None,
        observed_unix_ns=int(data.get("observedTimeUnixNano", 0)) or None,
        severity=data["severityNumber"], trace=_trace(document, data), body=data.get("body"),
    )


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and next(iter(value)) in _ANY_VALUE:
            return from_any_value(value)
        return {key: _rich(item) for key, item in value.items()}
    return [_rich(item) for item in value] if isinstance(value, list) else value


def _trace(document: Mapping[str, Any], data: Mapping[str, Any]) -> TraceRef | None:
    parent = document.get("traceparent") or f"00-{data.get('traceId', '0')}-0-0"
    _, trace_id, span_id, flags = parent.split("-")[:4]
    flags_told = data.get("flags", int(flags, 16))
    return TraceRef(int(trace_id, 16), int(span_id, 16), flags_told) if int(trace_id, 16) else None


def _from_rfc3339(text: str) -> int:
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError("not a time of RFC 3339")
    seconds, fraction, zone = match.groups()
    moment = datetime.fromisoformat(seconds + zone.replace("Z", "+00:00"))
    return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
