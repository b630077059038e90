"""Events as OTLP bytes: the inside of one ``LogRecord`` message.

Reads what the spool keeps: stamps are appended to a payload, so a field that is there
twice counts as it was said last, attributes included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from otel_memoir.errors import EventError
from otel_memoir.events.content import Capture
from otel_memoir.events.model import MemoryEvent, TraceRef
from otel_memoir.events.record import Opaque, Record, read, severity_text, write

_FORM = "OTLP"


def to_otlp(event: MemoryEvent | Opaque, *, capture: Capture | None = None) -> bytes:
    """An event as the bytes of a ``LogRecord`` message.

    Args:
        event: The event. What was read from OTLP as ``Opaque`` comes out byte for byte.

        capture: What the user opted in to; by default what the environment says now.
    """
    if isinstance(event, Opaque) and event.form == _FORM:
        return bytes(event.original)
    return _message(write(event, capture)).SerializeToString()


def _message(record: Record) -> LogRecord:
    message = LogRecord(
        time_unix_nano=record.time_unix_ns or 0,
        observed_time_unix_nano=record.observed_unix_ns or 0,
        severity_number=SeverityNumber.ValueType(record.severity),
        severity_text=severity_text(record.severity),
        body=_any_value(record.body), event_name=record.name,
        attributes=_key_values(record.attributes),
    )
    if record.trace is not None:
        message.trace_id = record.trace.trace_id.to_bytes(16, "big")
        message.span_id = record.trace.span_id.to_bytes(8, "big") if record.trace.span_id else b""
        message.flags = record.trace.flags
    return message


def _key_values(items: Any) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in items.items()]


def _any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=_key_values(value)))
    if isinstance(value, (list, tuple)):
        return AnyValue(array_value=ArrayValue(values=map(_any_value, value)))
    return AnyValue()


def from_otlp(payload: bytes) -> MemoryEvent | Opaque:
    """Read the bytes of a ``LogRecord`` message.

    Raises:
        EventError: They are no such message.
    """
    message = LogRecord()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise EventError("read event", target=f"of {len(payload)} bytes", cause=error,
                         hint="Give the bytes of one OTLP LogRecord.") from error
    return read(_record(message), form=_FORM, original=payload)


def from_otlp_request(request: bytes) -> Iterator[MemoryEvent | Opaque]:
    """Read every record of an ``ExportLogsServiceRequest``, in its order.

    Raises:
        EventError: The bytes are no such message.
    """
    try:
        message = ExportLogsServiceRequest.FromString(request)
    except DecodeError as error:
        raise EventError("read request", target=f"of {len(request)} bytes", cause=error) from error
    for resource in message.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield read(_record(record), form=_FORM, original=record.SerializeToString())


def _record(message: LogRecord) -> Record:
    trace = None
    if len(message.trace_id) == 16 and any(message.trace_id):
        span = message.span_id if len(message.span_id) == 8 else b""
        trace = TraceRef(
            int.from_bytes(message.trace_id, "big"), int.from_bytes(span, "big"), message.flags
        )
    return Record(
        name=message.event_name, attributes=_mapping(message.attributes),
        time_unix_ns=message.time_unix_nano or None,
        observed_unix_ns=message.observed_time_unix_nano or None,
        severity=message.severity_number, trace=trace, body=_value(message.body),
    )


def _mapping(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    found = getattr(value, which)
    if which == "kvlist_value":
        return _mapping(found.values)
    return [_value(item) for item in found.values] if which == "array_value" else found
