"""Events as OTLP JSON, by the rules of OTLP's "JSON Protobuf Encoding".

Names in lowerCamelCase, ids in hex, 64-bit integers as decimal text, enum values as
numbers, bytes in base64. A reader takes integers also as numbers and ignores what it does
not know.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

from otel_memoir.events.content import Capture
from otel_memoir.events.model import MemoryEvent, TraceRef
from otel_memoir.events.reading import Opaque, parsed, read, write
from otel_memoir.events.record import Record, severity_text

_FORM = "OTLP JSON"


def to_otlp_json(event: MemoryEvent | Opaque, *, capture: Capture | None = None) -> dict[str, Any]:
    """An event as a ``LogRecord`` of OTLP JSON, ready for ``json.dumps``.

    Args:
        event: The event. What was read from OTLP JSON as ``Opaque`` is given back as it was.

        capture: What the user opted in to; by default what the environment says now.
    """
    if isinstance(event, Opaque) and event.form == _FORM:
        return dict(event.original)
    record = write(event, capture)
    fields = {
        "timeUnixNano": record.time_unix_ns and str(record.time_unix_ns),
        "observedTimeUnixNano": record.observed_unix_ns and str(record.observed_unix_ns),
        "severityNumber": record.severity,
        "severityText": severity_text(record.severity),
        "body": record.body is not None and to_any_value(record.body),
        "attributes": _pairs(record.attributes),
        **_trace_fields(record.trace),
        "eventName": record.name,
    }
    return {name: value for name, value in fields.items() if value}


def _trace_fields(trace: TraceRef | None) -> dict[str, Any]:
    if trace is None:
        return {}
    span = f"{trace.span_id:016x}" if trace.span_id else ""
    return {"flags": trace.flags, "traceId": f"{trace.trace_id:032x}", "spanId": span}


def to_any_value(value: Any) -> dict[str, Any]:
    """A value as an ``AnyValue`` of OTLP JSON."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _pairs(value)}}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [to_any_value(item) for item in value]}}
    return _scalar(value)


def _scalar(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": _double(value)}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    return {"stringValue": value}


def _double(value: float) -> float | str:
    """JSON has no words for these; protobuf's mapping has."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _pairs(items: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": to_any_value(value)} for key, value in items.items()]


def from_otlp_json(document: Mapping[str, Any]) -> MemoryEvent | Opaque:
    """Read a ``LogRecord`` of OTLP JSON, as ``json.loads`` gives it.

    Raises:
        EventError: It is no such object.
    """
    return read(parsed(_record, document), form=_FORM, original=document)


def from_otlp_json_request(document: Mapping[str, Any]) -> Iterator[MemoryEvent | Opaque]:
    """Read every record of a request or of a line of a Collector's file exporter, in order.

    Raises:
        EventError: It is no such object.
    """
    for record in parsed(_log_records, document):
        yield from_otlp_json(record)


def _log_records(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        record
        for resource in document.get("resourceLogs", ())
        for scope in resource.get("scopeLogs", ())
        for record in scope.get("logRecords", ())
    ]


def _record(document: Mapping[str, Any]) -> Record:
    return Record(
        name=document.get("eventName", ""), attributes=_mapping(document.get("attributes", ())),
        time_unix_ns=int(document.get("timeUnixNano", 0)) or None,
        observed_unix_ns=int(document.get("observedTimeUnixNano", 0)) or None,
        severity=int(document.get("severityNumber", 0)), trace=_trace(document),
        body=from_any_value(document.get("body", {})),
    )


def _trace(document: Mapping[str, Any]) -> TraceRef | None:
    trace_id = int(document.get("traceId") or "0", 16)
    span_id = int(document.get("spanId") or "0", 16)
    return TraceRef(trace_id, span_id, int(document.get("flags", 0))) if trace_id else None


def _mapping(pairs: Any) -> dict[str, Any]:
    return {pair["key"]: from_any_value(pair.get("value") or {}) for pair in pairs}


def from_any_value(value: Mapping[str, Any]) -> Any:
    """The plain value of an ``AnyValue`` of OTLP JSON.

    Raises:
        ValueError, TypeError, KeyError: It is none.
    """
    for name, read_one in _READERS.items():
        if name in value:
            return read_one(value[name])
    return None


_READERS: dict[str, Any] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": int,
    "doubleValue": float,
    "bytesValue": lambda text: base64.b64decode(text, validate=True),
    "arrayValue": lambda array: [from_any_value(item) for item in array.get("values", ())],
    "kvlistValue": lambda pairs: _mapping(pairs.get("values", ())),
}
